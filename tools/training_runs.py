"""Run train.py for an experiment, keep what it leaves, and say how runs differ."""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from scipy import stats

from zoo.results.files import result_of, write_result
from zoo.results.surveys import TrainingRun


def arguments(description: str | None, name: str) -> argparse.ArgumentParser:
    """A parser of what all experiments take: the file of results, runs at once, and the folder to train in."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(f"results/{name}.json"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, one thread each")
    parser.add_argument("--scratch", type=Path, default=Path(f"output/{name}"))
    return parser


def finish(
    runs: list[TrainingRun],
    wanted: Mapping[Any, Callable[[], TrainingRun]],
    options: argparse.Namespace,
    order: Callable[[TrainingRun], Any],
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Make those of the wanted runs that are missing; write all of them, in order, after each.

    Args:
        runs: Those that are there; the new ones are added.
        wanted: (variant, learning rate if the experiment varies it, seed) → what makes that run.
    """
    done = {(run.variant, run.lr, run.seed) for run in runs}
    with ThreadPoolExecutor(options.jobs) as pool:
        for job in as_completed([pool.submit(train) for key, train in wanted.items() if key not in done]):
            runs.append(job.result())
            runs.sort(key=order)
            write_result(options.output, result_of("training", runs, settings=settings or {}))
            print(job.result(), flush=True)


def run_training(flags: list[str], folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Train into a folder, anew; return what train.py printed, and a row of its summary for each epoch.

    Raises:
        RuntimeError: It failed; says where and why.
    """
    command = [sys.executable, "train.py", *flags, f"--output={folder}", "--overwrite", "--json"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{folder}: {run.stderr.strip().splitlines()[-1]}")
    with (folder / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    return json.loads(run.stdout.strip().splitlines()[-1]), rows


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation."""
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def interval(differences: Sequence[float], digits: int) -> str:
    """Mean and 95 % interval of paired differences."""
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    mean = statistics.mean(differences)
    return f"{mean:+.{digits}f} ({mean - half:+.{digits}f} to {mean + half:+.{digits}f})"
