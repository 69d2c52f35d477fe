"""Columns that the tables of several kinds of records share."""

from collections.abc import Callable
from typing import Any

from zoo.results.records import Ratio
from zoo.results.table import Column, Value, significant

Read = Callable[[Any], Any]
TITLES = {"batch_size": "batch", "img_size": "size", "lr": "rate"}
"""Field → heading of its column, where that is not its name."""


def at(path: str) -> Read:
    """Read a field of a record, or of what that holds (`time.median`); None where there is none."""

    def read(record: Any) -> Any:
        for name in path.split("."):
            record = None if record is None else getattr(record, name)
        return record

    return read


def fields(*names: str, detail: bool = False) -> list[Column]:
    """A column for each of these fields of a record, shown as it is."""
    return [Column(TITLES.get(name, name), at(name), detail=detail) for name in names]


def number(title: str, path: str, unit: float = 1.0, *, detail: bool = False) -> Column:
    """A column of a figure in a unit, with three significant digits."""
    read = at(path)

    def scaled(record: Any) -> Value:
        found = read(record)
        return None if found is None else found / unit

    return Column(title, scaled, significant, detail=detail)


def ratio_columns(title: str, name: str) -> list[Column]:
    """A ratio, and the interval in which a repeated run's falls."""

    def interval(record: Any) -> str | None:
        found: Ratio | None = getattr(record, name)
        if found is None or found.repeat_low is None or found.repeat_high is None:
            return None
        return f"{significant(found.repeat_low)} – {significant(found.repeat_high)}"

    return [number(title, f"{name}.value"), Column("95 % of repeats", interval)]


def percent(title: str, value: Read, digits: int = 0, *, detail: bool = False) -> Column:
    """A column of a share, in per cent."""
    return Column(title, value, lambda share: f"{100 * share:.{digits}f} %", detail=detail)


ERROR = Column("error", at("relative_error"), "{:.0e}".format)
LEFT = Column("left", lambda record: "; ".join(f"{n}: {why}" for why, n in record.left.items()))
TIMES = [
    number("median ms", "time.median", 1e-3),
    number("IQR ms", "time.iqr", 1e-3, detail=True),
    number("p90 ms", "time.p90", 1e-3, detail=True),
    number("p99 ms", "time.p99", 1e-3, detail=True),
    Column("n", at("time.n"), detail=True),
]
"""Median and spread in milliseconds, and the number of samples."""
OUTCOME = [*fields("status", detail=True), *fields("note")]
SETTING = fields("batch_size", "img_size", "threads")
