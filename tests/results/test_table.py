"""The one table writer: what stands in a cell in each format."""

import csv
import io

import pytest

from zoo.results.table import Column, Table, shown, significant

ROWS = [{"name": "a|b", "ms": 1.25, "note": None}, {"name": "<c>", "ms": 16.66667, "note": None}]


def test_a_bar_inside_a_cell_does_not_end_it_in_markdown():
    lines = Table.of(ROWS).markdown().splitlines()
    assert lines[2].startswith("| a\\|b ")
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_numbers_stand_at_the_right_and_words_at_the_left():
    lines = Table.of(ROWS).markdown().splitlines()
    assert [cell.strip().strip("-") for cell in lines[1].split("|")[1:-1]] == [":", ":"]
    assert lines[1].split("|")[1].startswith(":")
    assert lines[1].split("|")[2].endswith(":")
    assert Table.of(ROWS).text().splitlines() == ["name       ms", "a|b      1.25", "<c>     16.67"]


def test_html_is_escaped():
    html = Table.of([{"<head>": "<script>"}]).html()
    assert "&lt;script&gt;" in html
    assert "<head>" not in html


def test_columns_that_nothing_fills_are_left_out_but_for_csv():
    table = Table.of(ROWS)
    assert "note" not in table.text() + table.markdown() + table.html()
    assert table.csv().splitlines()[0] == "name,ms,note"


def test_details_are_left_out_of_text_alone():
    table = Table([Column("name", lambda r: r["name"]), Column("ms", lambda r: r["ms"], detail=True)], ROWS)
    assert "ms" not in table.text()
    assert "ms" in table.markdown()


def test_csv_keeps_full_precision():
    rows = list(csv.reader(io.StringIO(Table.of([{"x": 1 / 3}]).csv())))
    assert float(rows[1][0]) == 1 / 3


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_csv_cells_are_never_formulas(cell):
    [[head], [value]] = list(csv.reader(io.StringIO(Table.of([{cell: cell}]).csv())))
    assert head == value == f"'{cell}"
    assert Table.of([{"x": "\r=1"}]).csv() == "x\n' =1\n"
    assert Table.of([{"x": -1.5}]).csv() == "x\n-1.5\n"  # numbers stay numbers


def test_a_cell_is_one_line():
    assert len(Table.of([{"error": "first\nsecond"}]).text().splitlines()) == 2


def test_a_table_without_rows_has_its_headings():
    table = Table([Column("name", lambda r: r)], [])
    assert table.text().split() == ["name"]
    assert table.markdown().splitlines()[0] == "| name   |"
    assert table.csv() == "name\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234567.0, "1234567"), (0.012345, "0.0123"), (35.04, "35"), (1.25, "1.25"), (1.234e-7, "0.000000123")],
)
def test_three_significant_digits_without_exponents(value, text):
    assert significant(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(81.754, "81.75"), (12345.6, "12346"), (3, "3"), ("a", "a"), (3e-7, "3e-07")]
)
def test_floats_are_shown_with_four_digits(value, text):
    assert shown(value) == text
