"""Does merged training train as well as training branch by branch? Paired seeds on the bundled images.

    python tools/compare_merged.py --jobs 2 --seeds 5

Every run is train.py's own with the quickstart's recipe, one thread; pairs differ in --merge-pixels alone. What counts
is the last epoch's top-1 and loss of the weights that are kept, their average, on the 2,000 validation images. Finished
runs are kept, so it can be interrupted, and continued with more seeds. It says nothing about speed: the maps of
32-pixel images are too small to gain.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

from training_runs import arguments, finish, interval, run_training, spread

from zoo.results.files import read_result
from zoo.results.surveys import TrainingRun
from zoo.results.table import Table

BLOCKS = {"repvgg": [], "dbb": ["--block=dbb"], "acb": ["--block=acb"]}
RECIPE = ["--config=quickstart", "--threads=1", "--workers=0"]


def main() -> int:
    parser = arguments(__doc__, "compare_merged")
    parser.add_argument("--seeds", type=int, default=5, help="pairs for each block")
    parser.add_argument("--pixels", type=int, default=1024, help="of the merged runs")
    parser.add_argument("--epochs", type=int, default=6, help="of each run, the first one warm-up")
    parser.add_argument("--blocks", nargs="+", choices=BLOCKS, default=[*BLOCKS])
    options = parser.parse_args()
    runs: list[TrainingRun] = read_result(options.output).records if options.output.exists() else []
    wanted = {
        (variant(block, pixels), None, seed): partial(train, block, pixels, seed, options)
        for seed in range(options.seeds)
        for block in options.blocks
        for pixels in (0, options.pixels)
    }
    settings = {"recipe": " ".join(RECIPE), "epochs": options.epochs}
    finish(runs, wanted, options, lambda run: (run.variant, run.seed), settings)
    print(table(runs, options.pixels).markdown())
    return 0


def variant(block: str, pixels: int) -> str:
    return f"{block}, {pixels} pixels" if pixels else f"{block}, by branch"


def train(block: str, pixels: int, seed: int, options: argparse.Namespace) -> TrainingRun:
    """One run of train.py: its losses, and its top-1 in per cent on the validation images."""
    folder = options.scratch / f"{block}-{pixels}-{seed}"
    flags = [*RECIPE, *BLOCKS[block], f"--merge-pixels={pixels}", f"--epochs={options.epochs}"]
    _, epochs = run_training([*flags, f"--seed={seed}"], folder)
    losses, last = [float(epoch["train_loss"]) for epoch in epochs], epochs[-1]
    results = {"loss": float(last["ema_loss"])}
    return TrainingRun(
        variant=variant(block, pixels), seed=seed, train_loss=losses, top1=[float(last["ema_top1"])], results=results
    )


def table(runs: list[TrainingRun], pixels: int) -> Table:
    """Each block's mean ± standard deviation, and the paired differences merged - by branch with 95 % intervals."""
    rows = []
    for block in BLOCKS:
        exact, merged = ({r.seed: r for r in runs if r.variant == variant(block, p)} for p in (0, pixels))
        pairs = [(exact[seed], merged[seed]) for seed in sorted(exact.keys() & merged.keys())]
        if len(pairs) < 2:
            continue
        top1 = [(a.top1[-1], b.top1[-1]) for a, b in pairs]
        loss = [(a.results["loss"], b.results["loss"]) for a, b in pairs]
        row = {"block": block, "pairs": len(pairs)}
        for name, values, digits in (("top-1, %", top1, 2), ("loss", loss, 4)):
            for which, column in zip(("by branch", "merged"), zip(*values, strict=True), strict=True):
                row[f"{name}, {which}"] = spread(column, digits)
            row[f"difference, {name}"] = interval([b - a for a, b in values], digits)
        rows.append(row)
    return Table.of(rows)


if __name__ == "__main__":
    sys.exit(main())
