"""Results for people and for programs: a table, a file, and the JSON object on the last line of stdout."""

import csv
import io
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.atomic import atomic_write
from zoo.bench.results import without_nan
from zoo.cli.errors import UsageError, check_folders

SUFFIXES = (".json", ".csv", ".md")
Row = Mapping[str, Any]


def check_results_file(path: str | None) -> None:
    """Refuse a file nobody can write before the work, not after it. Raises: UsageError."""
    if path is not None and Path(path).suffix not in SUFFIXES:
        raise UsageError(f"results_file: {path} must end in {', '.join(SUFFIXES)}")
    check_folders(path)


def show_log() -> None:
    """Messages of the package go to stderr; stdout is for results."""
    logger = logging.getLogger("zoo")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.propagate = False


def markdown(rows: Sequence[Row]) -> str:
    """Rows of one kind as a Markdown table, columns aligned."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1 else str(_round(value))


def _round(value: Any) -> Any:
    return round(value, 2) if isinstance(value, float) else "" if value is None else value


def csv_text(rows: Sequence[Row]) -> str:
    """Rows as CSV with a header."""
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def deliver(results: dict[str, Any], rows: Sequence[Row], file: str | None) -> None:
    """Write `file` (rows for .csv and .md, everything for .json), then print the JSON object, last."""
    if file is not None:
        with atomic_write(file) as temporary:
            if file.endswith(".json"):
                temporary.write_text(json.dumps(without_nan(results), indent=1) + "\n")
            else:
                temporary.write_text(csv_text(rows) if file.endswith(".csv") else markdown(rows) + "\n")
    print(json.dumps(without_nan(results)), flush=True)
