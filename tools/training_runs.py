"""Run train.py for an experiment, read what it leaves, and say how runs differ."""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats


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
