"""Columns that the tables of several kinds of records share."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from zoo.results.records import Ratio
from zoo.results.table import Column, Value, significant

MILLI, MEGA, GIGA = 1e-3, 1e6, 1e9


TITLES = {"batch_size": "batch", "img_size": "size", "lr": "rate"}
"""Field → heading of its column, where that is not its name."""


def fields(*names: str, detail: bool = False) -> list[Column]:
    """A column for each of these fields of a record, shown as it is."""
    return [Column(TITLES.get(name, name), attrgetter(name), detail=detail) for name in names]


def number(title: str, value: Callable[[Any], float | None], unit: float = 1.0, *, detail: bool = False) -> Column:
    """A column of a figure in a unit, with three significant digits."""

    def scaled(record: Any) -> Value:
        found = value(record)
        return None if found is None else found / unit

    return Column(title, scaled, significant, detail=detail)


def ratio_columns(title: str, ratio: Callable[[Any], Ratio | None]) -> list[Column]:
    """A ratio, and the interval in which a repeated run's falls."""

    def interval(record: Any) -> str | None:
        found = ratio(record)
        if found is None or found.repeat_low is None or found.repeat_high is None:
            return None
        return f"{significant(found.repeat_low)} – {significant(found.repeat_high)}"

    value = number(title, lambda record: found.value if (found := ratio(record)) else None)
    return [value, Column("95 % of repeats", interval)]


def _of_time(name: str) -> Callable[[Any], float | None]:
    return lambda record: getattr(record.time, name) if record.time else None


def percent(title: str, value: Callable[[Any], float | None], digits: int = 0, *, detail: bool = False) -> Column:
    """A column of a share, in per cent."""
    return Column(title, value, lambda share: f"{100 * share:.{digits}f} %", detail=detail)


TIMES = [
    number("median ms", _of_time("median"), MILLI),
    number("IQR ms", _of_time("iqr"), MILLI, detail=True),
    number("p90 ms", _of_time("p90"), MILLI, detail=True),
    number("p99 ms", _of_time("p99"), MILLI, detail=True),
    Column("n", _of_time("n"), detail=True),
]
"""Median and spread in milliseconds, and the number of samples."""
OUTCOME = [*fields("status", detail=True), *fields("note")]
SETTING = fields("batch_size", "img_size", "threads")
