"""The one table writer: records as rows of text, Markdown, CSV or HTML.

Table([Column("layer", lambda r: r.name), Column("error", lambda r: r.error, "{:.1e}".format)], records).text()
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tabulate import tabulate

Value = str | float | int | None


def significant(value: float) -> str:
    """Print three significant digits, never as a power of ten."""
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e+" in text else f"{Decimal(text):f}"


def shown(value: Any) -> str:
    """Print a value as a cell: four significant digits of a float, everything else in full."""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return str(value)


@dataclass(frozen=True)
class Column:
    """A column: its heading with unit, how a record's value is found, and how it is printed.

    detail: Left out where there is little room, in text.
    """

    title: str
    value: Callable[[Any], Value]
    show: Callable[[Any], str] = shown
    detail: bool = False

    def text(self, record: Any) -> str:
        """The cell of a record on one line; empty for None."""
        value = self.value(record)
        return "" if value is None else _line(self.show(value))


@dataclass(frozen=True)
class Table:
    """Records as rows, one a record, under a title; `note` says what the columns mean where their names do not."""

    columns: Sequence[Column]
    records: Sequence[Any]
    title: str = ""
    note: str = ""

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], title: str = "", note: str = "") -> Table:
        """A table of mappings, one column a key."""
        keys = dict.fromkeys(key for row in rows for key in row)
        return cls([Column(key, lambda row, key=key: row.get(key)) for key in keys], rows, title, note)

    def text(self) -> str:
        """Aligned columns for a terminal, without those that are details."""
        return self._written("plain", [column for column in self._filled() if not column.detail])

    def markdown(self) -> str:
        """GitHub's Markdown."""
        return self._written("pipe", self._filled(), lambda text: text.replace("|", "\\|"))

    def html(self) -> str:
        """An HTML table element, its cells escaped."""
        return self._written("html", self._filled())

    def csv(self) -> str:
        """All columns, figures unrounded; text that a spreadsheet would run as a formula gets a ' before it."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_inert(column.title) for column in self.columns])
        writer.writerows([_inert(column.value(record)) for column in self.columns] for record in self.records)
        return file.getvalue()

    def _filled(self) -> list[Column]:
        """The columns that some record fills; all of them if there are no records."""
        filled = [c for c in self.columns if any(c.value(record) not in (None, "") for record in self.records)]
        return filled or list(self.columns)

    def _written(self, form: str, columns: list[Column], escape: Callable[[str], str] = str) -> str:
        rows = [[escape(column.text(record)) for column in columns] for record in self.records]
        align = ["right" if self._is_numeric(column) else "left" for column in columns] if rows else None
        heads = [escape(column.title) for column in columns]
        return str(tabulate(rows, heads, tablefmt=form, colalign=align, disable_numparse=True))

    def _is_numeric(self, column: Column) -> bool:
        return all(isinstance(column.value(record), int | float | None) for record in self.records)


def _inert(value: Value) -> Value:
    """A CSV cell that no spreadsheet takes for a formula (OWASP, CSV injection)."""
    if not isinstance(value, str):
        return value
    return _line(f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value)


def _line(text: str) -> str:
    return " ".join(text.splitlines())
