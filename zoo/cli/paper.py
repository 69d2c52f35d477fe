"""`benchmark.py paper TABLE`: a published table beside ours."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from typing import Any, NoReturn

from zoo.atomic import atomic_write
from zoo.bench.environment import environment
from zoo.bench.memory import bounded_memory
from zoo.bench.timing import Plan
from zoo.cli.errors import UsageError, check_folders, report
from zoo.export.torch_engines import torch_threads
from zoo.paper import tables
from zoo.paper.figure import axes_of, plot
from zoo.paper.measure import Measured, measure
from zoo.paper.render import describe, record, render
from zoo.paper.reproduce import reproduce
from zoo.paper.results import read_results

PROGRAM = "benchmark.py paper"


def main(argv: list[str]) -> int:
    """Run the command; 0, or 2 for bad input, 1 for a mishap.

    The last line of stdout is one JSON object: the whole table with `--format json`, else its summary.
    """
    return report(PROGRAM, lambda: _main(argv))


def _main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    check_folders(options.output, options.plot)
    if options.plot and not options.plot.endswith(".png"):
        raise UsageError(f"--plot {options.plot} must end in .png")
    if options.table is None:
        return _list()
    table = tables.table(options.table)
    return _run(table, _rows(table, options.rows), options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help shows the options)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="A published table beside ours: computed to the printed digit, times by rank and ratio.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("table", nargs="?", metavar="TABLE", help="name of a table; without it they are listed")
    parser.add_argument("--rows", default="*", metavar="PATTERN", help="rows, or models, that match")
    parser.add_argument(
        "--results", nargs="+", default=[], metavar="FILE", help="accuracies on ImageNet: validate's, JSON or CSV"
    )
    parser.add_argument("--measure-latency", action="store_true", help="time the networks on this machine")
    parser.add_argument("--batch-size", type=int, default=1, help="images per timed call")
    parser.add_argument("--img-size", type=int, help="of the timed images; the paper's if not given")
    parser.add_argument("--threads", type=int, default=1, help="threads while timing")
    parser.add_argument("--rounds", type=int, default=20, help="timed samples per network, at most")
    parser.add_argument("--seconds", type=float, default=120, help="bound on timing one column (warm-up: 3 at most)")
    parser.add_argument("--format", choices=("text", "markdown", "csv", "json"), default="text")
    parser.add_argument("--output", metavar="FILE", help="write the table there instead of to stdout")
    parser.add_argument("--plot", metavar="FILE", help="draw the accuracy-latency figure as a PNG")
    return parser


def _list() -> int:
    width = max(len(table.name) for table in tables.tables())
    for table in tables.tables():
        print(f"{table.name:{width}}  {table.title}")
    print(json.dumps({"tables": [table.name for table in tables.tables()]}))
    return 0


def _rows(table: tables.Table, pattern: str) -> list[tables.Row]:
    rows = [row for row in table.rows if fnmatch(row.name, pattern) or fnmatch(row.model or "", pattern)]
    if not rows:
        raise UsageError(f"--rows {pattern}: {table.name} has {', '.join(row.name for row in table.rows)}")
    return rows


def _run(table: tables.Table, rows: Sequence[tables.Row], options: argparse.Namespace) -> int:
    if options.plot:
        axes_of(table)
    accuracies = read_results(options.results)
    measured, measurement = _measure(table, rows, options) if options.measure_latency else (None, None)
    values = measured.values if measured else None
    reproduction = reproduce(table, rows, accuracies=accuracies, measurements=values)
    text = render(reproduction, options.format, measurement)
    if options.plot:
        plot(table, options.plot, values, describe(measurement) if measurement else "")
    if options.output:
        with atomic_write(options.output) as temporary:
            temporary.write_text(text + "\n", "utf-8")
    else:
        print(text)
    if options.output or options.format != "json":
        whole = record(reproduction, measurement)
        print(json.dumps({key: whole[key] for key in ("table", "summary", "comparisons")}))
    return 0


def _measure(
    table: tables.Table, rows: Sequence[tables.Row], options: argparse.Namespace
) -> tuple[Measured, dict[str, Any]]:
    """What is measured on `--threads` threads, and how: settings, machine, n and spread of every cell."""
    for name in ("batch_size", "img_size", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    plan = Plan(rounds=options.rounds, seconds=options.seconds, warmup_seconds=min(3.0, options.seconds))
    with torch_threads(options.threads), bounded_memory():
        measured = measure(table, rows, batch_size=options.batch_size, img_size=options.img_size, plan=plan)
        where = environment()
    samples = [{"row": row, "column": column, **asdict(summary)} for (row, column), summary in measured.samples.items()]
    return measured, {
        "engine": "eager",
        "precision": "fp32",
        "threads": options.threads,
        "batch_size": options.batch_size,
        "img_size": options.img_size,
        "environment": where,
        "samples": samples,
    }
