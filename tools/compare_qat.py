"""Does quantisation-aware training win back what int8 costs? The quickstart's RepVGG, refined with and without it.

    python tools/compare_qat.py --seeds 0 1 2 3 4 --lr 0.01

Trains the network by the quickstart's recipe as `tools/compare_int8.py` does (and takes its trainings, if they are
there), and refines it, deployed, with `--qat` and without, by the same settings and for as many epochs, so that more
training is not taken for a gain of rounding. Every network is judged as an OpenVINO file on the 2,000 validation
images; what was not trained with rounding is quantised on 256 training images in the first way of `zoo export`. No
average of weights, so that nothing is chosen by the images that judge. Finished runs are kept.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from compare_int8 import RECIPE, prepare, top1_of_file
from compare_int8 import train as train_first
from training_runs import arguments, finish, interval, run_training

from zoo.export.openvino_engine import FILE
from zoo.results.files import read_result
from zoo.results.surveys import TrainingRun
from zoo.results.table import Table

FLOAT, QAT = "in float", "with --qat"
COLUMNS = ("float", "int8", "refined, float", "refined, int8")


def main() -> int:
    parser = arguments(__doc__, "compare_qat")
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(5)])
    parser.add_argument("--lr", type=float, default=0.01, help="peak of the refinement; the first training's is 0.1")
    parser.add_argument("--epochs", type=int, default=2, help="of the refinement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs: list[TrainingRun] = read_result(options.output).records if options.output.exists() else []
    wanted = {
        (variant, options.lr, seed): partial(refine, variant, seed, options)
        for seed in options.seeds
        for variant in (FLOAT, QAT)
    }
    settings = {"recipe": " ".join(RECIPE), "epochs": options.epochs}
    finish(runs, wanted, options, lambda run: (run.lr, run.variant, run.seed), settings)
    print(table(runs, options.lr).markdown())
    return 0


def refine(variant: str, seed: int, options: argparse.Namespace) -> TrainingRun:
    """Refine a trained network: its top-1 in float and in int8, before and after."""
    weights = train_first("RepVGG", seed, options.scratch)
    flags = [*RECIPE, f"--seed={seed}", f"--lr={options.lr}", f"--epochs={options.epochs}", f"--checkpoint={weights}"]
    flags += ["--warmup-epochs=0", "--no-model-ema", *(["--qat"] if variant == QAT else [])]
    folder = options.scratch / f"{variant.replace(' ', '')}-{options.lr}-{seed}"
    done, _ = run_training(flags, folder)
    found: dict[str, float] = dict(zip(COLUMNS[:2], judge(weights), strict=True))
    if variant == FLOAT:
        found[COLUMNS[2]], found[COLUMNS[3]] = judge(folder / "deployed.safetensors")
    else:
        found |= {"simulated": done["scores"]["raw/train"]["top1"], "refined, int8": done["top1"]}
    return TrainingRun(variant=variant, seed=seed, lr=options.lr, top1=[found["refined, int8"]], results=found)


def judge(weights: Path) -> tuple[float, float]:
    """Top-1 of a deployed network in float, and quantised after its training."""
    source, goal = prepare(weights)
    return goal.top1(source.network), top1_of_file(FILE, next(iter(FILE.ways.values())), source, goal)


def table(runs: list[TrainingRun], lr: float) -> Table:
    """Mean top-1 of each way, and its paired difference to int8 without refinement with a 95 % interval."""
    rows = []
    for variant in (FLOAT, QAT):
        own = [run for run in runs if run.variant == variant and run.lr == lr]
        row: dict[str, str | int] = {"refined": variant, "runs": len(own)}
        for column in COLUMNS:
            values = [run.results[column] for run in own if column in run.results]
            row[column] = f"{sum(values) / len(values):.2f}" if values else ""
        gains = [run.results["refined, int8"] - run.results["int8"] for run in own]
        row["int8, gained"] = interval(gains, 2) if len(gains) > 1 else ""
        rows.append(row)
    return Table.of(rows)


if __name__ == "__main__":
    sys.exit(main())
