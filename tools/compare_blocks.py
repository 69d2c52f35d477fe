"""Do the branches of ACB and DBB raise accuracy at the scale we have? The papers' claim on the bundled images.

    python tools/compare_blocks.py --output results/compare_blocks.json

ResNet-18-shaped networks (our resnet18 with widths 16 32 64 128, at 32 pixels), plain and with every 3x3
convolution an ACB or a DBB. Each is tuned first: one seed at every learning rate. Then five other seeds, the same for
all three, once with one rate for all and once with the rate that was best for each. Every run is train.py's own: what
counts is the top-1 of the deployed network on the 2,000 validation images, by which the rates are chosen too. Finished
runs of this recipe are kept, so it can be interrupted.
All start as PyTorch's layers and with every BatchNorm at one, as in the papers' code, where timm's own resnet18 starts
wider and with zeros: a different start would be compared, not the branches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from training_runs import arguments, finish, run_training

from zoo.atomic import atomic_write
from zoo.results.files import read_result
from zoo.results.surveys import TrainingRun

BLOCKS: tuple[str, ...] = ("plain", "acb", "dbb")
SEEDS, TUNING_SEED = (0, 1, 2, 3, 4), 5
RATES = (0.00625, 0.0125, 0.025, 0.05, 0.2)
ONE_RATE: dict[str, float] = dict.fromkeys(BLOCKS, 0.05)
RECIPE = {
    "model": "resnet18",
    "model-kwargs": "{channels: [16, 32, 64, 128], stem_width: 16}",
    "dataset": "fashion",
    "img-size": "32",
    "crop-pct": "1.0",
    "scale": "[0.6, 1.0]",
    "batch-size": "64",
    "epochs": "8",
    "warmup-epochs": "1",
    "weight-decay": "1e-4",
    "val-interval": "8",
    "workers": "0",
    "threads": "1",
}


def main() -> int:
    parser = arguments(__doc__, "compare_blocks")
    parser.add_argument("--figure", type=Path, default=Path("docs/compare_blocks.png"))
    options = parser.parse_args()
    before = read_result(options.output) if options.output.exists() else None
    runs: list[TrainingRun] = before.records if before and before.settings == RECIPE else []
    make(runs, [(block, rate, TUNING_SEED) for rate in RATES for block in BLOCKS], options)
    for rates in (ONE_RATE, best_rates(runs)):
        make(runs, [(block, rates[block], seed) for seed in SEEDS for block in BLOCKS], options)
    with atomic_write(options.figure) as temporary:
        plot(runs, temporary)
    print(json.dumps(summary(runs)))
    return 0


def make(runs: list[TrainingRun], keys: list[tuple[str, float, int]], options: argparse.Namespace) -> None:
    """Make those of the runs (block, learning rate, seed) that are missing."""
    wanted = {key: partial(train, *key, options.scratch) for key in keys}
    finish(runs, wanted, options, lambda run: (run.seed, run.lr, BLOCKS.index(run.variant)), RECIPE)


def train(block: str, rate: float, seed: int, scratch: Path) -> TrainingRun:
    """One run of train.py; its results."""
    flags = [f"--{key}={value}" for key, value in RECIPE.items()] + [f"--lr={rate}", f"--seed={seed}"]
    if block != "plain":
        flags.append(f"--block={block}")
    results, epochs = run_training(flags, scratch / f"{block}-{rate}-{seed}")
    figures = {"train_loss": [float(epochs[-1]["train_loss"])], "top1": [results["top1"]], "results": results}
    return TrainingRun(variant=block, lr=rate, seed=seed, **figures)


def top1(runs: list[TrainingRun]) -> dict[tuple[str, float, int], float]:
    """(block, learning rate, seed) → top-1 of the deployed network, in per cent."""
    return {(run.variant, run.lr or 0.0, run.seed): run.top1[-1] for run in runs}


def tuning_curve(runs: list[TrainingRun], block: str) -> list[float]:
    """Top-1 of the tuning seed at each of `RATES`."""
    of = top1(runs)
    return [of[block, rate, TUNING_SEED] for rate in RATES]


def best_rates(runs: list[TrainingRun]) -> dict[str, float]:
    """The learning rate of `RATES` that was best for each block."""
    return {block: max(zip(tuning_curve(runs, block), RATES, strict=True))[1] for block in BLOCKS}


def summary(runs: list[TrainingRun]) -> dict[str, Any]:
    """The comparison with one rate for all, and with each block's own."""
    return {"one_rate": compare(runs, ONE_RATE), "own_rate": compare(runs, best_rates(runs))}


def compare(runs: list[TrainingRun], rates: dict[str, float]) -> dict[str, Any]:
    """Mean and standard deviation of each block, and of its gain over plain on the same seed, in points of top-1."""
    of = top1(runs)
    result = {}
    for block, rate in rates.items():
        values = [of[block, rate, seed] for seed in SEEDS]
        gains = [of[block, rate, seed] - of["plain", rates["plain"], seed] for seed in SEEDS]
        losses = [run.train_loss[-1] for run in runs if (run.variant, run.lr) == (block, rate) and run.seed in SEEDS]
        result[block] = {
            "lr": rate,
            "n": len(values),
            "mean": round(statistics.mean(values), 2),
            "std": round(statistics.stdev(values), 2),
            "train_loss_mean": round(statistics.mean(losses), 3),
            "gain_mean": round(statistics.mean(gains), 2),
            "gain_std": round(statistics.stdev(gains), 2),
        }
    return result


def plot(runs: list[TrainingRun], path: Path) -> None:
    """Left: top-1 over the learning rate. Right: every seed a line over the three networks, each at its own rate."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained", sharey=True)
    for number, block in enumerate(BLOCKS):
        left.plot(RATES, tuning_curve(runs, block), "o-", color=f"C{number}", label=block)
    left.set_xscale("log", base=2)
    left.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
    left.set_xlabel("learning rate (one seed)")
    left.set_ylabel("top-1 of the deployed network, %")

    of, rates = top1(runs), best_rates(runs)
    names = [f"{block}\n(rate {rate:g})" for block, rate in rates.items()]
    values = [[of[block, rate, seed] for block, rate in rates.items()] for seed in SEEDS]
    for line in values:
        right.plot(names, line, "o-", color="0.75", markersize=4)
    means = [statistics.mean(column) for column in zip(*values, strict=True)]
    right.plot(names, means, "o-", color="black", linewidth=2, label=f"mean of {len(SEEDS)} other seeds")
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Slim ResNet-18, 5,000 bundled images, 8 epochs", fontsize=10)
    figure.savefig(path, dpi=150, format="png")


if __name__ == "__main__":
    sys.exit(main())
