"""`benchmark.py paper TABLE`: a published table beside ours."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

import torch

from zoo.atomic import atomic_write
from zoo.bench.environment import environment
from zoo.bench.timing import Plan
from zoo.paper import tables
from zoo.paper.figure import plot
from zoo.paper.measure import Measured, measure
from zoo.paper.render import FORMATS, record, render
from zoo.paper.reproduce import reproduce
from zoo.paper.results import read_results


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if it ran, 2 for bad input, 1 if a file could not be written.

    The last line of stdout is one JSON object: the whole table with `--format json`, else its summary.
    """
    options = _parser().parse_args(argv)
    if options.table is None:
        return _list()
    try:
        return _run(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark.py paper",
        description="A published table beside ours: computed to the printed digit, times by rank and ratio.",
    )
    parser.add_argument(
        "table", nargs="?", metavar="TABLE", help="name of a table; without it they are listed"
    )
    parser.add_argument(
        "--rows", default="*", metavar="PATTERN", help="rows (or models) that match, e.g. '*A?'"
    )
    parser.add_argument(
        "--results",
        nargs="+",
        default=[],
        metavar="FILE",
        help="accuracies on ImageNet from validate, JSON or CSV",
    )
    parser.add_argument("--measure-latency", action="store_true", help="time the networks on this machine")
    parser.add_argument(
        "--batch-size", type=int, default=1, help="images per timed call (default: %(default)s)"
    )
    parser.add_argument("--img-size", type=int, help="image size when timing (default: the paper's)")
    parser.add_argument("--threads", type=int, default=1, help="threads when timing (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=20, help="timed samples per network (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=120, help="bound on timing a column (default: %(default)s)"
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="default: %(default)s")
    parser.add_argument("--output", metavar="FILE", help="write the table there instead of to stdout")
    parser.add_argument("--plot", metavar="FILE", help="draw the accuracy-latency figure as a PNG")
    return parser


def _list() -> int:
    width = max(len(table.name) for table in tables.tables())
    for table in tables.tables():
        print(f"{table.name:{width}}  {table.title}")
    print(json.dumps({"tables": [table.name for table in tables.tables()]}))
    return 0


def _run(options: argparse.Namespace) -> int:
    table = tables.table(options.table)
    rows = [
        row for row in table.rows if fnmatch(row.name, options.rows) or fnmatch(row.model or "", options.rows)
    ]
    if not rows:
        raise ValueError(
            f"--rows {options.rows}: {table.name} has {', '.join(row.name for row in table.rows)}"
        )
    accuracies = read_results(options.results)
    measured, measurement = _measure(table, rows, options) if options.measure_latency else (None, None)
    values = measured.values if measured else None
    reproduction = reproduce(table, rows, accuracies=accuracies, measurements=values)
    text = render(reproduction, options.format, measurement)
    if options.output:
        with atomic_write(options.output) as temporary:
            temporary.write_text(text + "\n", "utf-8")
    if options.plot:
        plot(table, options.plot, values)
    if not options.output:
        print(text)
    if options.output or options.format != "json":
        summary = record(reproduction, measurement)
        print(json.dumps({key: summary[key] for key in ("table", "summary", "comparisons")}))
    return 0


def _measure(
    table: tables.Table, rows: Sequence[tables.Row], options: argparse.Namespace
) -> tuple[Measured, dict[str, Any]]:
    """What is measured on `--threads` threads, and how: settings, machine, n and spread of every cell."""
    for name in ("batch_size", "img_size", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    plan = Plan(rounds=options.rounds, seconds=options.seconds)
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        measured = measure(table, rows, batch_size=options.batch_size, img_size=options.img_size, plan=plan)
        return measured, {
            "engine": "eager float32",
            "threads": options.threads,
            "batch size": options.batch_size,
            "image size": options.img_size or "the paper's",
            "environment": environment(),
            "samples": [
                {"row": row, "column": column, **dataclasses.asdict(summary)}
                for (row, column), summary in measured.samples.items()
            ],
        }
    finally:
        torch.set_num_threads(threads)
