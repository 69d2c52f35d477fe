"""`zoo paper TABLE`: a published table beside ours."""

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

from zoo.atomic import atomic_write
from zoo.bench.memory import bounded_memory
from zoo.bench.timing import Plan
from zoo.cli.errors import UsageError
from zoo.export.torch_engines import torch_threads
from zoo.paper.accuracies import read_results
from zoo.paper.config import PaperConfig
from zoo.paper.figure import axes_of, plot
from zoo.paper.measure import Measured, measure
from zoo.paper.render import describe, record, render
from zoo.paper.reproduce import reproduce
from zoo.published import tables
from zoo.results.environment import environment
from zoo.results.table import Table


def run(config: PaperConfig) -> dict[str, Any]:
    """Print the tables' names, or one table beside ours; the whole of it."""
    if config.table is None:
        known = tables.tables()
        print(Table.of([{"table": table.name, "title": table.title} for table in known]).text())
        return {"tables": [table.name for table in known]}
    table = tables.table(config.table)
    return _reproduce(table, _rows(table, config.rows), config)


def _rows(table: tables.Table, pattern: str) -> list[tables.Row]:
    rows = [row for row in table.rows if fnmatch(row.name, pattern) or fnmatch(row.model or "", pattern)]
    if not rows:
        raise UsageError(f"--rows {pattern}: {table.name} has {', '.join(row.name for row in table.rows)}")
    return rows


def _reproduce(table: tables.Table, rows: Sequence[tables.Row], config: PaperConfig) -> dict[str, Any]:
    if config.plot:
        axes_of(table)
    accuracies = read_results(config.results)
    measured, measurement = _measure(table, rows, config) if config.measure_latency else (None, None)
    values = measured.values if measured else None
    reproduction = reproduce(table, rows, accuracies=accuracies, measurements=values)
    text = render(reproduction, config.format, measurement)
    if config.plot:
        plot(table, config.plot, values, describe(measurement) if measurement else "")
    if config.output:
        with atomic_write(config.output) as temporary:
            temporary.write_text(text + "\n", "utf-8")
    else:
        print(text)
    return record(reproduction, measurement)


def _measure(table: tables.Table, rows: Sequence[tables.Row], config: PaperConfig) -> tuple[Measured, dict[str, Any]]:
    """Measure on `--threads` threads; with the settings, the machine, n and spread of every cell."""
    plan = Plan(rounds=config.rounds, seconds=config.seconds, warmup_seconds=min(3.0, config.seconds))
    with torch_threads(config.threads), bounded_memory():
        measured = measure(table, rows, batch_size=config.batch_size, img_size=config.img_size, plan=plan)
        where = environment()
    samples = [{"row": row, "column": column, "time": summary} for (row, column), summary in measured.samples.items()]
    return measured, {
        "engine": "eager",
        "precision": "fp32",
        "threads": config.threads,
        "batch_size": config.batch_size,
        "img_size": config.img_size,
        "environment": where,
        "samples": samples,
    }
