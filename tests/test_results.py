"""The committed results: README's tables and the report are what the files beside them say."""

import runpy
import sys
from pathlib import Path

import pytest

from zoo.bench.report import markdown_report, read_all

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "benchmark"


@pytest.fixture
def readme_tables():
    return runpy.run_path(str(ROOT / "tools" / "readme_tables.py"))


def test_the_readme_shows_what_was_measured(readme_tables, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["readme_tables.py", "--check"])
    assert readme_tables["main"]() == 0, "run tools/readme_tables.py"


def test_a_table_has_words_at_the_left_and_numbers_at_the_right(readme_tables):
    lines = readme_tables["table"](["network", "batch"], [["repvgg_a0", "8"]], words=1)
    assert lines == ["| network | batch |", "|---|---:|", "| repvgg_a0 | 8 |", ""]


def test_the_report_shows_what_was_measured():
    results = read_all(sorted(RESULTS.glob("*.json")))
    assert (RESULTS / "report.md").read_text() == markdown_report(results), "run benchmark.py report"
