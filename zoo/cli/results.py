"""Results for people and for programs: messages, a table, a file."""

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.atomic import atomic_write
from zoo.results.files import to_json
from zoo.results.table import Table
from zoo.untrusted import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

TO_STDERR = logging.StreamHandler()


class _Printable(logging.Formatter):
    """Spell out control characters: names of files and tensors are not ours."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def show_log() -> None:
    """Messages of the package go to stderr; stdout is for results."""
    logger = logging.getLogger("zoo")
    logger.setLevel(logging.INFO)
    logger.addHandler(TO_STDERR)
    TO_STDERR.stream = sys.stderr  # as it is now
    TO_STDERR.setFormatter(_Printable())
    logger.propagate = False


def write_table(rows: Sequence[Row], draw: Callable[[], "Figure"], file: str) -> None:
    """Write rows to a .csv, else what `draw` makes of them as a picture, whole or not at all."""
    with atomic_write(file) as temporary:
        if file.endswith(".csv"):
            temporary.write_text(Table.of(rows).csv())
        else:
            from zoo.results.plots import save

            save(draw(), temporary)


def write_results(results: dict[str, Any], rows: Sequence[Row], file: str | None) -> dict[str, Any]:
    """Write `file`, if one is asked for: rows for .csv and .md, everything for .json; the results without NaN."""
    results = json.loads(to_json(results))
    if file is not None:
        with atomic_write(file) as temporary:
            if file.endswith(".json"):
                temporary.write_text(json.dumps(results, indent=1) + "\n")
            else:
                table = Table.of(rows)
                temporary.write_text(table.csv() if file.endswith(".csv") else table.markdown() + "\n")
    return results
