"""The committed results: every file is read, and the page of results is what the files say."""

import runpy
import sys
from pathlib import Path

import pytest

from zoo.results.files import read_result
from zoo.results.views import tables

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "results").rglob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_committed_result_is_of_the_one_schema(file):
    result = read_result(file)
    assert len(tables(result)[-1].records) == len(result.records) > 0


def test_the_page_of_results_shows_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    page = runpy.run_path(str(ROOT / "tools" / "results_page.py"))
    monkeypatch.setattr(sys, "argv", ["results_page.py", "--check"])
    assert page["main"]() == 0, "run tools/results_page.py"
