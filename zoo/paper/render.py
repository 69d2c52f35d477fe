"""A reproduced table as text, Markdown or CSV, and as plain data."""

import dataclasses
from collections.abc import Callable
from typing import Any

from zoo.paper.reproduce import Cell, Reproduction
from zoo.results.table import Column, Table


def render(reproduction: Reproduction, form: str, measurement: dict[str, Any] | None = None) -> str:
    """The table as text, markdown or csv, without a final newline.

    measurement: how times were measured (machine, settings), for the formats that have room for it.
    """
    if form == "csv":
        name = Column("table", lambda cell: reproduction.table.name)
        fields = [Column(f.name, lambda cell, key=f.name: getattr(cell, key)) for f in dataclasses.fields(Cell)]
        return Table([name, *fields], reproduction.cells).csv().rstrip("\n")
    table = side_by_side(reproduction, _beside, "published / ours")
    title, notes = reproduction.table.title, _notes(reproduction, measurement)
    if form == "markdown":
        return "\n".join([f"### {title}", "", table.markdown(), "", *(f"- {note}" for note in notes)])
    return "\n".join([title, "", table.text(), "", *notes])


def record(reproduction: Reproduction, measurement: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "table": reproduction.table.name,
        "title": reproduction.table.title,
        "paper": dict(reproduction.table.paper),
        "source": reproduction.table.source,
        "summary": reproduction.summary(),
        "comparisons": reproduction.comparisons,
        "measurement": measurement,
        "cells": reproduction.cells,
    }


def side_by_side(reproduction: Reproduction, text: Callable[[Cell], str], corner: str = "") -> Table:
    """The table as it was published, with `text` of each cell; `corner` heads the column of names."""
    rows: dict[str, dict[str, str]] = {}
    for cell in reproduction.cells:
        rows.setdefault(cell.row, {"": cell.row})[cell.column] = text(cell)
    columns = [Column(corner, lambda row: row[""])]
    for column in reproduction.table.columns:
        title = f"{column.label}{f', {column.unit}' if column.unit else ''}"
        columns.append(Column(title, lambda row, key=column.key: row[key]))
    return Table(columns, list(rows.values()))


def _beside(cell: Cell) -> str:
    return f"{cell.published or '–'} / {cell.ours or '–'} {cell.status}"


def _notes(reproduction: Reproduction, measurement: dict[str, Any] | None) -> list[str]:
    table = reproduction.table
    notes = [f"Published: {table.paper['title']} (arXiv {table.paper['arxiv']}), {table.source}."]
    notes += [f"{c.label}: {c.protocol}." for c in table.columns if c.protocol]
    notes += [table.note.rstrip()] if table.note else []
    label = {column.key: column.label for column in table.columns}
    differs = [cell for cell in reproduction.cells if cell.status == "differs"]
    for why in dict.fromkeys(cell.note for cell in differs):
        names = ", ".join(f"{cell.row} ({label[cell.column]})" for cell in differs if cell.note == why)
        notes.append(f"Differs: {names}. {why}".rstrip())
    absent = [row for row in table.rows if row.why_not and row.name in {cell.row for cell in reproduction.cells}]
    for why in dict.fromkeys(row.why_not for row in absent):
        notes.append(f"Not in the zoo: {', '.join(row.name for row in absent if row.why_not == why)}. {why}")
    for comparison in reproduction.comparisons:
        rho = comparison.rank_correlation
        agreement = "too few rows" if rho is None else f"{rho:.3f} over {comparison.rows} rows"
        notes.append(
            f"{label[comparison.column]}: ours are ratios to {comparison.reference}; "
            f"rank correlation with the published ones {agreement}."
        )
    if measurement:
        notes.append(f"Measured: {describe(measurement)}.")
    return notes


def describe(measurement: dict[str, Any]) -> str:
    """Describe in one line how times were measured."""
    size, cpu = measurement["img_size"], measurement["environment"].cpu.model
    return (
        f"{cpu}, {measurement['threads']} threads, {measurement['engine']} {measurement['precision']}, "
        f"batch {measurement['batch_size']}, {f'{size} x {size} pixels' if size else 'the image sizes of the paper'}"
    )
