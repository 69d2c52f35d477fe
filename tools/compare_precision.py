"""Does bfloat16 autocast train as float32 does? The quickstart's loss curve in both, over several seeds.

    python tools/compare_precision.py --jobs 2

Runs are train.py's own, one thread each. A curve is the mean training loss of each epoch and the last top-1; the
question is whether bfloat16's lies within the spread of float32's seeds. Finished runs are kept, so it can be
interrupted. It says nothing about speed: a CPU without bfloat16 arithmetic trains slower so, and rounds the same.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from training_runs import arguments, finish, run_training, spread

from zoo.results.files import read_result
from zoo.results.surveys import TrainingRun
from zoo.results.table import Table

PRECISIONS = ("float32", "bfloat16")
SEEDS = (0, 1, 2, 3, 4)


def main() -> int:
    options = arguments(__doc__, "compare_precision").parse_args()
    runs: list[TrainingRun] = read_result(options.output).records if options.output.exists() else []
    wanted = {(p, None, seed): partial(train, p, seed, options.scratch) for seed in SEEDS for p in PRECISIONS}
    finish(runs, wanted, options, lambda run: (PRECISIONS.index(run.variant), run.seed))
    print(table(runs).markdown())
    return 0


def train(precision: str, seed: int, scratch: Path) -> TrainingRun:
    """One run of train.py: its loss in each epoch, and its last top-1 in per cent."""
    flags = ["--config=quickstart", f"--amp-dtype={precision}", f"--seed={seed}", "--threads=1", "--workers=0"]
    _, rows = run_training(flags, scratch / f"{precision}-{seed}")
    losses = [float(row["train_loss"]) for row in rows]
    return TrainingRun(variant=precision, seed=seed, train_loss=losses, top1=[float(rows[-1]["top1"])])


def table(runs: list[TrainingRun]) -> Table:
    """Mean ± standard deviation over the seeds: each epoch's training loss, and the last top-1."""
    rows = []
    for precision in PRECISIONS:
        own = [run for run in runs if run.variant == precision]
        losses = [spread(losses, 3) for losses in zip(*(run.train_loss for run in own), strict=True)]
        columns = {f"loss, epoch {epoch}": loss for epoch, loss in enumerate(losses, 1)}
        rows.append({"precision": precision, **columns, "top-1, %": spread([run.top1[-1] for run in own], 3)})
    return Table.of(rows)


if __name__ == "__main__":
    sys.exit(main())
