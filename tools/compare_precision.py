"""Does bfloat16 autocast train as float32 does? The quickstart's loss curve in both, over several seeds.

    python tools/compare_precision.py --jobs 2

Runs are train.py's own, one thread each. A curve is the mean training loss of each epoch and the last top-1; the
question is whether bfloat16's lies within the spread of float32's seeds. Finished runs are kept, so it can be
interrupted. It says nothing about speed: a CPU without bfloat16 arithmetic trains slower so, and rounds the same.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from zoo.atomic import atomic_write
from zoo.bench.environment import environment

PRECISIONS = ("float32", "bfloat16")
SEEDS = (0, 1, 2, 3, 4)
Run = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/compare_precision.json"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, one thread each")
    parser.add_argument("--scratch", type=Path, default=Path("output/compare_precision"))
    options = parser.parse_args()
    runs: list[Run] = json.loads(options.output.read_text())["runs"] if options.output.exists() else []
    done = {(run["precision"], run["seed"]) for run in runs}
    todo = [(precision, seed) for seed in SEEDS for precision in PRECISIONS if (precision, seed) not in done]
    with ThreadPoolExecutor(options.jobs) as pool:
        for finished in as_completed([pool.submit(train, *run, options.scratch) for run in todo]):
            runs.append(finished.result())
            runs.sort(key=lambda run: (PRECISIONS.index(run["precision"]), run["seed"]))
            with atomic_write(options.output) as temporary:
                temporary.write_text(json.dumps({"environment": environment(), "runs": runs}, indent=1))
            print(json.dumps(finished.result()), flush=True)
    print(table(runs))
    return 0


def train(precision: str, seed: int, scratch: Path) -> Run:
    """One run of train.py: its loss in each epoch, and its last top-1 in per cent."""
    folder = scratch / f"{precision}-{seed}"
    flags = ["--config=quickstart", f"--amp-dtype={precision}", f"--seed={seed}", f"--output={folder}", "--overwrite"]
    run = subprocess.run(
        [sys.executable, "train.py", *flags, "--threads=1", "--workers=0"], capture_output=True, text=True
    )
    if run.returncode:
        raise RuntimeError(f"{precision}, seed {seed}: {run.stderr.strip().splitlines()[-1]}")
    with (folder / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train_loss"]) for row in rows]
    return {"precision": precision, "seed": seed, "train_loss": losses, "top1": float(rows[-1]["top1"])}


def table(runs: list[Run]) -> str:
    """Mean ± standard deviation over the seeds: each epoch's training loss, and the last top-1."""
    epochs = len(runs[0]["train_loss"])
    head = ["precision", *(f"loss, epoch {epoch + 1}" for epoch in range(epochs)), "top-1, %"]
    lines = [head, ["---"] * len(head)]
    for precision in PRECISIONS:
        own = [run for run in runs if run["precision"] == precision]
        columns = [*zip(*(run["train_loss"] for run in own), strict=True), [run["top1"] for run in own]]
        figures = [f"{statistics.mean(column):.3f} ± {statistics.stdev(column):.3f}" for column in columns]
        lines.append([precision, *figures])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
