"""Do the branches of ACB and DBB raise accuracy at the scale we have? The papers' claim on the bundled images.

    python tools/compare_blocks.py --output results/compare_blocks.json

ResNet-18-shaped networks (timm's resnet18 with widths 16 32 64 128, at 32 pixels), one recipe, plain and with every
3x3 convolution an ACB or a DBB; five seeds, each the same for all three. Every run is train.py's own: what counts is
the top-1 of the deployed network on the 2,000 validation images. Finished runs are kept, so it can be interrupted.
No BatchNorm starts at zero, in the plain network neither (timm's default for the last of a residual block): the
branches of a block start at one, as in the papers, and a different start would be compared, not the branches.
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

import matplotlib

from zoo.atomic import atomic_write
from zoo.bench.environment import environment

BLOCKS = ("plain", "acb", "dbb")
SEEDS = (0, 1, 2, 3, 4)
RECIPE = {
    "model": "timm/resnet18",
    "model-kwargs": "{channels: [16, 32, 64, 128], stem_width: 16, zero_init_last: false}",
    "dataset": "fashion",
    "img-size": "32",
    "crop-pct": "1.0",
    "scale": "[0.6, 1.0]",
    "batch-size": "64",
    "epochs": "8",
    "warmup-epochs": "1",
    "lr": "0.05",
    "weight-decay": "1e-4",
    "val-interval": "8",
    "workers": "0",
    "threads": "1",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/compare_blocks.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/compare_blocks.png"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, one thread each")
    parser.add_argument("--scratch", type=Path, default=Path("output/compare_blocks"))
    options = parser.parse_args()
    runs: list[dict[str, Any]] = json.loads(options.output.read_text())["runs"] if options.output.exists() else []
    done = {(run["block"], run["seed"]) for run in runs}
    todo = [(block, seed) for seed in SEEDS for block in BLOCKS if (block, seed) not in done]
    with ThreadPoolExecutor(options.jobs) as pool:
        for finished in as_completed([pool.submit(train, *run, options.scratch) for run in todo]):
            runs.append(finished.result())
            runs.sort(key=lambda run: (run["seed"], BLOCKS.index(run["block"])))
            write(runs, options.output)
            print(json.dumps(finished.result()), flush=True)
    with atomic_write(options.figure) as temporary:
        plot(runs, temporary)
    print(json.dumps(summary(runs)))
    return 0


def train(block: str, seed: int, scratch: Path) -> dict[str, Any]:
    """One run of train.py; its results."""
    flags = [f"--{key}={value}" for key, value in RECIPE.items()]
    flags += [f"--seed={seed}", f"--output={scratch / f'{block}-{seed}'}", "--overwrite"]
    if block != "plain":
        flags.append(f"--block={block}")
    run = subprocess.run([sys.executable, "train.py", *flags], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{block}, seed {seed}: {run.stderr.strip().splitlines()[-1]}")
    with (scratch / f"{block}-{seed}" / "summary.csv").open() as file:
        train_loss = float(list(csv.DictReader(file))[-1]["train_loss"])
    results = json.loads(run.stdout.strip().splitlines()[-1])
    return {"block": block, "seed": seed, "train_loss": train_loss, "results": results}


def top1(run: dict[str, Any]) -> float:
    """Of the deployed network, in per cent."""
    return run["results"]["top1"]


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of each block, and of its gain over plain on the same seed, in points of top-1."""
    of = {(run["block"], run["seed"]): top1(run) for run in runs}
    result = {}
    for block in BLOCKS:
        values = [of[block, seed] for seed in SEEDS]
        gains = [of[block, seed] - of["plain", seed] for seed in SEEDS]
        result[block] = {
            "n": len(values),
            "mean": round(statistics.mean(values), 2),
            "std": round(statistics.stdev(values), 2),
            "train_loss_mean": round(statistics.mean(run["train_loss"] for run in runs if run["block"] == block), 3),
            "gain_mean": round(statistics.mean(gains), 2),
            "gain_std": round(statistics.stdev(gains), 2),
        }
    return result


def write(runs: list[dict[str, Any]], path: Path) -> None:
    result = {"environment": environment(), "recipe": RECIPE, "runs": runs}
    if len(runs) == len(BLOCKS) * len(SEEDS):
        result["summary"] = summary(runs)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1))


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Every seed a line over the three networks; the means on top."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    of = {(run["block"], run["seed"]): top1(run) for run in runs}
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for seed in SEEDS:
        axes.plot(BLOCKS, [of[block, seed] for block in BLOCKS], "o-", color="0.75", markersize=4)
    means = [statistics.mean(of[block, seed] for seed in SEEDS) for block in BLOCKS]
    axes.plot(BLOCKS, means, "o-", color="C0", linewidth=2, label=f"mean of {len(SEEDS)} seeds")
    axes.set_ylabel("top-1 of the deployed network, %")
    axes.set_title("Slim ResNet-18, 5,000 bundled images, 8 epochs", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, format="png")


if __name__ == "__main__":
    sys.exit(main())
