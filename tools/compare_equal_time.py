"""Which block is best at equal training time? Networks that differ in their blocks, each trained for the same time.

    python tools/compare_equal_time.py --jobs 2
    python tools/compare_equal_time.py --epochs 120 -- --config resnet18_120ep --data-dir /imagenet --device cuda

The protocol, written before the runs. The network is that of `compare_blocks.py`, every 3x3 convolution a block.
First a training step of each is measured, interleaved (forward, backward, optimizer, random images). The plain
network trains for --epochs; every other block for as many whole epochs, at least two, as take that time. One learning
rate for all, the one that was best for plain and for DBB in `compare_blocks.py`; every schedule ends with its own
last epoch. The same five seeds for all. What counts is the top-1 of the deployed network on the validation images;
whatever comes out is published. Flags after -- replace this recipe (by one of ImageNet, say). Finished runs are kept,
so it can be interrupted.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from compare_blocks import RECIPE
from training_runs import arguments, finish, interval, run_training, spread

from zoo.bench.train_step import Step
from zoo.cli.config import parse
from zoo.engine.build import build_network, train_size
from zoo.engine.config import TrainConfig
from zoo.engine.hardware import choose_dtype, prepare
from zoo.results.files import read_result
from zoo.results.records import TrainStep
from zoo.results.surveys import TrainingRun
from zoo.results.table import Column, Table

BLOCKS = {
    "plain": "plain",
    "ACB": "acb",
    "DBB": "dbb",
    "RepVGG": "repvgg",
    "MobileOne": "kxk*4+1x1+identity",
    "OREPA": "orepa",
    "QARepVGG": "qarepvgg",
}
RATE = 0.0125
CLASSES = 1000
"""Of the measured networks; a classifier's size does not tell in a step."""
STEPS = 10
"""Measured steps of each network, after one that is not."""


def main() -> int:
    parser = arguments(__doc__, "compare_equal_time")
    parser.add_argument("--epochs", type=int, default=12, help="of the plain network")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("flags", nargs="*", help="of train.py, after --: another recipe")
    options = parser.parse_args()
    recipe = options.flags or [*(f"--{key}={value}" for key, value in RECIPE.items()), f"--lr={RATE}"]
    before = read_result(options.output) if options.output.exists() else None
    runs: list[TrainingRun] = before.records if before else []
    settings = before.settings if before else {}
    if before and (settings["recipe"], settings["epochs"]["plain"]) != (recipe, options.epochs):
        parser.error(f"{options.output} has runs of another recipe or length: give --output another file")
    if not before:
        seconds = step_seconds(recipe)
        epochs = {name: max(2, int(options.epochs * seconds["plain"] / seconds[name])) for name in BLOCKS}
        settings = {"recipe": recipe, "step_seconds": seconds, "epochs": epochs}
    wanted = {
        (name, None, seed): partial(train, name, seed, settings["epochs"][name], recipe, options.scratch)
        for seed in range(options.seeds)
        for name in BLOCKS
    }
    finish(runs, wanted, options, lambda run: (run.seed, [*BLOCKS].index(run.variant)), settings)
    print(table(runs, settings).markdown())
    return 0


def step_seconds(recipe: list[str]) -> dict[str, float]:
    """Measure a training step of each network in turn; return the medians."""
    steps = {}
    for name, block in BLOCKS.items():
        config = parse(TrainConfig, [*recipe, f"--block={block}"], "train.py")
        network, device = build_network(config.model, CLASSES), prepare(config.hardware).device
        precision = "bf16" if choose_dtype(config.hardware.amp_dtype, device, network) == torch.bfloat16 else "fp32"
        setting = TrainStep(
            model=name,
            structure="train",
            batch_size=config.data.batch_size,
            img_size=train_size(config.data, network),
            threads=torch.get_num_threads(),
            device=str(device),
            layout="nhwc" if config.hardware.channels_last else "nchw",
            precision=precision,
        )
        steps[name] = Step(network, setting)
    for _ in range(1 + STEPS):
        for step in steps.values():
            step()
    return {name: statistics.median(map(sum, step.seconds[1:])) for name, step in steps.items()}


def train(name: str, seed: int, epochs: int, recipe: list[str], scratch: Path) -> TrainingRun:
    """One run of train.py; its results."""
    flags = [*recipe, f"--block={BLOCKS[name]}", f"--epochs={epochs}", f"--val-interval={epochs}", f"--seed={seed}"]
    results, rows = run_training(flags, scratch / f"{name}-{seed}")
    figures = {"train_loss": [float(row["train_loss"]) for row in rows], "top1": [results["top1"]], "results": results}
    return TrainingRun(variant=name, seed=seed, seconds=results["seconds"], **figures)


def table(runs: list[TrainingRun], settings: dict[str, Any]) -> Table:
    """One line a block: its step and epochs, its top-1, and the difference to plain on the same seeds."""
    of = {(run.variant, run.seed): run for run in runs}
    seeds = sorted(seed for name, seed in of if name == "plain")

    def top1(name: str) -> list[float]:
        return [of[name, seed].top1[-1] for seed in seeds]

    def gain(name: str) -> str:
        if name == "plain":
            return ""
        return interval([a - b for a, b in zip(top1(name), top1("plain"), strict=True)], 2)

    steps, epochs = settings["step_seconds"], settings["epochs"]
    columns = [
        Column("block", str),
        Column("step / plain", lambda name: f"{steps[name] / steps['plain']:.2f}"),
        Column("epochs", lambda name: epochs[name]),
        Column("top-1, %", lambda name: spread(top1(name), 2)),
        Column("against plain (95 %)", gain),
        Column("training loss", lambda name: f"{statistics.mean(of[name, s].train_loss[-1] for s in seeds):.3f}"),
    ]
    return Table(columns, [*BLOCKS])


if __name__ == "__main__":
    sys.exit(main())
