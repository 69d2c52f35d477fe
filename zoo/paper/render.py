"""A reproduced table as text, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import Any

from zoo.paper.reproduce import Cell, Reproduction

FORMATS = ("text", "markdown", "csv", "json")


def render(reproduction: Reproduction, form: str, measurement: dict[str, Any] | None = None) -> str:
    """The table in one of FORMATS, without a final newline.

    measurement: how times were measured (machine, settings), for the formats that have room for it.
    """
    assert form in FORMATS, form
    if form == "json":
        return json.dumps(record(reproduction, measurement))
    if form == "csv":
        return _csv(reproduction)
    grid = _grid(reproduction)
    lines = _markdown(grid) if form == "markdown" else _text(grid)
    title = reproduction.table.title
    head = [f"### {title}"] if form == "markdown" else [title]
    notes = _notes(reproduction, measurement)
    bullets = [f"- {note}" for note in notes] if form == "markdown" else notes
    return "\n".join([*head, "", *lines, "", *bullets])


def record(reproduction: Reproduction, measurement: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everything, JSON-ready."""
    return {
        "table": reproduction.table.name,
        "title": reproduction.table.title,
        "paper": dict(reproduction.table.paper),
        "source": reproduction.table.source,
        "summary": reproduction.summary(),
        "comparisons": [dataclasses.asdict(comparison) for comparison in reproduction.comparisons],
        "measurement": measurement,
        "cells": [dataclasses.asdict(cell) for cell in reproduction.cells],
    }


def _csv(reproduction: Reproduction) -> str:
    buffer = io.StringIO()
    fields = [field.name for field in dataclasses.fields(Cell)]
    writer = csv.DictWriter(buffer, ["table", *fields], lineterminator="\n")
    writer.writeheader()
    for cell in reproduction.cells:
        writer.writerow({"table": reproduction.table.name, **dataclasses.asdict(cell)})
    return buffer.getvalue().rstrip("\n")


def _grid(reproduction: Reproduction) -> list[list[str]]:
    """The table as strings, first line the header; every cell is "published / ours status"."""
    columns = reproduction.table.columns
    rows: dict[str, list[str]] = {}
    for cell in reproduction.cells:
        text = f"{cell.published or '–'} / {cell.ours or '–'} {cell.status}"
        rows.setdefault(cell.row, []).append(text)
    unit = {column.key: f", {column.unit}" if column.unit else "" for column in columns}
    header = ["published / ours", *(f"{column.label}{unit[column.key]}" for column in columns)]
    return [header, *([name, *cells] for name, cells in rows.items())]


def _text(grid: list[list[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in grid) for i in range(len(grid[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in grid]


def _markdown(grid: list[list[str]]) -> list[str]:
    header, *body = (f"| {' | '.join(line)} |" for line in grid)
    return [header, "|---" * len(grid[0]) + "|", *body]


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
    """How times were measured, in one line."""
    size, cpu = measurement["img_size"], measurement["environment"]["cpu"]["model"]
    return (
        f"{cpu}, {measurement['threads']} threads, {measurement['engine']} {measurement['precision']}, "
        f"batch {measurement['batch_size']}, {f'{size} x {size} pixels' if size else 'the image sizes of the paper'}"
    )
