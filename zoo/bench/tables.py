"""Result documents as tables: one list of columns per kind, the same for Markdown, CSV and HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.bench.results import Row

Value = str | float | int | None


@dataclass(frozen=True)
class Cell:
    """What is shown, and what it is sorted by."""

    text: str
    value: Value


@dataclass(frozen=True)
class Table:
    """A titled table; `note` says what the columns mean where their names do not."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Column:
    """A column: its heading with unit, and how a row's entry is found and printed."""

    title: str
    value: Callable[[Row], Value]
    text: Callable[[Any], str] = str

    def cell(self, row: Row) -> Cell:
        value = self.value(row)
        return Cell("" if value is None else self.text(value), value)


def key(name: str, scale: float = 1.0) -> Callable[[Row], Value]:
    """The entry at a dotted path, divided by `scale`; None where a row has none."""

    def value(row: Row) -> Value:
        entry: Any = row
        for part in name.split("."):
            entry = entry.get(part) if isinstance(entry, dict) else None
        return entry / scale if scale != 1.0 and entry is not None else entry

    return value


def significant(value: float) -> str:
    """Three significant digits, never in exponents."""
    if value == 0:
        return "0"
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e" in text else text


def interval(name: str) -> Column:
    """The interval in which a repeated run's ratio falls."""

    def value(row: Row) -> Value:
        ratio = row.get(name) or {}
        low, high = ratio.get("repeat_low"), ratio.get("repeat_high")
        return f"{significant(low)} – {significant(high)}" if low is not None and high is not None else None

    return Column("95 % of repeats", value)


def percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _note(row: Row) -> str | None:
    error = row.get("error")
    if error and row["status"] == "out of memory":  # engines say it each in its own words
        return f"out of memory: {error}"
    return error or row.get("warning")


MILLI, MEGA, GIGA = 1e-3, 1e6, 1e9
NOTE = Column("note", _note)
STATUS = Column("status", key("status"))
TIMES = [
    Column("median ms", key("median", MILLI), significant),
    Column("IQR ms", key("iqr", MILLI), significant),
    Column("p90 ms", key("p90", MILLI), significant),
    Column("p99 ms", key("p99", MILLI), significant),
    Column("n", key("n")),
]

COLUMNS: dict[str, list[Column]] = {
    "latency": [
        Column("model", key("model")),
        Column("structure", key("structure")),
        Column("engine", lambda row: row.get("chosen") if row["engine"] == "auto" else row["engine"]),
        Column("precision", lambda row: f"auto ≤ {row['precision']}" if row["engine"] == "auto" else row["precision"]),
        Column("batch", key("batch_size")),
        Column("size", key("img_size")),
        Column("threads", key("threads")),
        *TIMES,
        Column("images/s", key("images_per_s"), significant),
        Column("speed-up", key("speedup.value"), significant),
        interval("speedup"),
        Column("GMAC/s", key("macs_per_s", GIGA), significant),
        Column("of GEMM peak", key("share_of_gemm_peak"), percent),
        Column("of bandwidth", key("share_of_bandwidth"), percent),
        Column("peak MB", key("peak_memory", MEGA), significant),
        Column("other CPUs", key("other_cpus"), significant),
        STATUS,
        NOTE,
    ],
    "concat-add": [
        Column("comparison", key("comparison")),
        Column("stage", key("stage")),
        Column("channels", key("channels")),
        Column("side", key("side")),
        Column("batch", key("batch_size")),
        Column("engine", key("engine")),
        Column("layout", key("layout")),
        Column("concat ms", key("concat.median", MILLI), significant),
        Column("add ms", key("add.median", MILLI), significant),
        Column("concat / add", key("ratio.value"), significant),
        interval("ratio"),
        Column("concat MB", key("concat.bytes", MEGA), significant),
        Column("add MB", key("add.bytes", MEGA), significant),
        Column("concat GB/s", key("concat.bandwidth", GIGA), significant),
        Column("add GB/s", key("add.bandwidth", GIGA), significant),
        Column("n", key("concat.n")),
        STATUS,
        NOTE,
    ],
    "train": [
        Column("model", key("model")),
        Column("structure", key("structure")),
        Column("layout", key("layout")),
        Column("precision", key("precision")),
        Column("batch", key("batch_size")),
        Column("size", key("img_size")),
        Column("threads", key("threads")),
        *TIMES,
        Column("forward ms", key("forward", MILLI), significant),
        Column("backward ms", key("backward", MILLI), significant),
        Column("optimizer ms", key("optimizer", MILLI), significant),
        Column("time ratio", key("step_ratio.value"), significant),
        interval("step_ratio"),
        Column("kept for backward MB", key("saved_activations", MEGA), significant),
        Column("peak MB", key("peak_memory", MEGA), significant),
        STATUS,
        NOTE,
    ],
    "profile": [
        Column("model", key("model")),
        Column("structure", key("structure")),
        Column("level", key("level")),
        Column("name", key("name")),
        Column("kind", key("kind")),
        Column("median ms", key("median", MILLI), significant),
        Column("IQR ms", key("iqr", MILLI), significant),
        Column("share", key("share"), lambda share: f"{100 * share:.1f} %"),
        Column("n", key("n")),
        STATUS,
        NOTE,
    ],
}

NOTES = {
    "latency": "Speed-up: time of the group's first row over this row's. `control` is a second copy of that first row: "
    "its distance from 1 is noise. Peak MB: of tensors (eager) or resident memory of building and the first call.",
    "concat-add": "concat / add: above 1, adding is faster. `operator` joins the same two maps, `equal width` compares "
    "the same output, `module` and `network` are Ghost (concat) and RepGhost (add) as a whole.",
    "train": "Time ratio: this row's step over that of the model's first row. Memory is of tensors, exact.",
    "profile": "Share of the network's median time. Levels: network, block, branch, layer; kind sums layers by type.",
}
KINDS = tuple(COLUMNS)


def tables(result: dict[str, Any]) -> list[Table]:
    """The tables of a result document: its rows, and before them what they come down to."""
    kind = result["kind"]
    heads = {"latency": _means_table, "concat-add": _stages_table}
    first = [heads[kind](result["means"])] if result.get("means") else []
    return [*first, Table(title(result), NOTES[kind], *_filled(COLUMNS[kind], result["rows"]))]


def title(result: dict[str, Any]) -> str:
    """What was measured, and on what, in one line."""
    cpu = result["environment"]["cpu"]
    models = list(dict.fromkeys(row["model"] for row in result["rows"] if row.get("model")))
    names = f": {', '.join(models)}" if 0 < len(models) <= 6 else ""
    return f"{result['kind']}{names} ({cpu['model']})"


def _filled(columns: Sequence[Column], rows: Sequence[Row]) -> tuple[list[str], list[list[Cell]]]:
    """Headings and cells, without columns that no row fills."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    used = [i for i in range(len(columns)) if any(line[i].value not in (None, "") for line in cells)]
    return [columns[i].title for i in used], [[line[i] for i in used] for line in cells]


MEAN_COLUMNS = [
    Column("structure", key("structure")),
    Column("engine", key("engine")),
    Column("precision", key("precision")),
    Column("speed-up (geometric mean)", key("speedup"), significant),
    Column("of", key("count"), lambda count: f"{count} measurement{'s' if count > 1 else ''}"),
]


def _means_table(means: Sequence[Row]) -> Table:
    note = "Over all models, batch sizes and resolutions; combinations that some model lacks are left out."
    return Table("Geometric mean of the speed-ups", note, *_filled(MEAN_COLUMNS, means))


STAGE_COLUMNS = [
    Column("comparison", key("comparison")),
    Column("engine", key("engine")),
    Column("layout", key("layout")),
    Column("batch", key("batch_size")),
    Column("concat / add (geometric mean)", key("ratio"), significant),
    Column("of", key("count"), lambda count: f"{count} shape{'s' if count > 1 else ''}"),
]


def _stages_table(means: Sequence[Row]) -> Table:
    filled = _filled(STAGE_COLUMNS, means)
    return Table("Concat / add over the stages", "Above 1, adding is faster.", *filled)


def markdown(table: Table) -> str:
    """A table in GitHub's Markdown."""

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    numeric = [all(not isinstance(row[i].value, str) for row in table.rows) for i in range(len(table.columns))]
    rule = "|" + "|".join("---:" if right else "---" for right in numeric) + "|"
    body = [line([cell.text for cell in row]) for row in table.rows]
    return "\n".join([line(table.columns), rule, *body])


DETAILS = {"IQR ms", "p90 ms", "p99 ms", "n", "GMAC/s", "of bandwidth", "other CPUs", "status", "concat MB", "add MB"}
"""Columns that a terminal has no room for."""


def console(table: Table) -> str:
    """A table for a terminal: the main columns, aligned, numbers to the right."""
    shown = [i for i, title in enumerate(table.columns) if title not in DETAILS]
    lines = [[table.columns[i] for i in shown], *([row[i].text for i in shown] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [all(not isinstance(row[i].value, str) for row in table.rows) for i in shown]

    def aligned(line: Sequence[str]) -> str:
        cells = zip(line, widths, right, strict=True)
        return "  ".join(text.rjust(width) if r else text.ljust(width) for text, width, r in cells).rstrip()

    return "\n".join(aligned(line) for line in lines)
