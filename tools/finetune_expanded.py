"""Does fine-tuning profit from expanding the network first? Four starts, equal epochs, on the bundled images.

    python tools/finetune_expanded.py --output results/finetune_expanded.json

A slim ResNet is pretrained on five of the ten classes, gets a new head and is fine-tuned on all ten: as it is, with
its convolutions expanded into DBBs, deployed (BatchNorm folded away), and deployed then expanded. Expanding keeps
the function, so all four of a seed start from the same features. Every start gets its best learning rate of the
same short list; seeds differ in pretraining, head and order of images.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo.atomic import atomic_write
from zoo.data.fashion import IMAGES_PER_CLASS, Fashion
from zoo.results.files import result_of, write_result
from zoo.results.surveys import TrainingRun

PRETRAIN_EPOCHS, FINETUNE_EPOCHS, BATCH_SIZE = 5, 4, 64
LEARNING_RATES = (0.005, 0.02, 0.08)
SEEDS = (0, 1, 2)
IMAGES = 100  # of each class, for fine-tuning
CHANCE = 10.0  # top-1 in percent of a run that diverged

STARTS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "plain": lambda model, images: model,
    "expanded": lambda model, images: zoo.expand(model, "dbb", example=images[:2], calibration=images),
    "deployed": lambda model, images: zoo.deploy(model.eval(), images[:2]),
    "deployed, expanded": lambda model, images: zoo.expand(
        zoo.deploy(model.eval(), images[:2]), "dbb", example=images[:2], calibration=images
    ),
}
"""Pretrained network, calibration images → the network to fine-tune."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/finetune_expanded.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/finetune_expanded.png"))
    options = parser.parse_args()
    start = time.perf_counter()
    runs = [run for seed in SEEDS for run in experiment(seed)]
    settings = {
        "network": "timm resnet10t with stem 16 and widths 16 32 64 128, 32x32 grey",
        "pretrain": f"{PRETRAIN_EPOCHS} epochs on classes 0-4",
        "finetune": f"{FINETUNE_EPOCHS} epochs on {IMAGES} images a class, all classes, batch {BATCH_SIZE}",
        "learning_rates": LEARNING_RATES,
    }
    seconds = round(time.perf_counter() - start)
    write_result(options.output, result_of("training", runs, settings=settings, seconds=seconds))
    with atomic_write(options.figure) as temporary:
        plot(summary(runs), temporary)
    print(json.dumps(summary(runs)))
    return 0


def experiment(seed: int) -> Iterator[TrainingRun]:
    """All runs of one seed."""
    torch.manual_seed(seed)
    images, labels = load("train")
    val_images, val_labels = load("val")
    half = labels < 5
    widths = (16, 32, 64, 128)
    model: Any = timm.create_model("resnet10t", num_classes=5, in_chans=1, stem_width=16, channels=widths)
    train(model, images[half], labels[half], PRETRAIN_EPOCHS, 0.1, seed)
    pretrained = score(model, val_images[val_labels < 5], val_labels[val_labels < 5])
    model.reset_classifier(10)
    few = torch.arange(len(images)) % IMAGES_PER_CLASS["train"] < IMAGES
    images, labels = images[few], labels[few]
    for name, begin in STARTS.items():
        for lr in LEARNING_RATES:
            network = begin(copy.deepcopy(model), images[::4])
            first = loss_of_first_step(network, images, labels)
            began = time.perf_counter()
            history = train(
                network, images, labels, FINETUNE_EPOCHS, lr, seed, lambda net: score(net, val_images, val_labels)
            )
            finite = all(bool(p.isfinite().all()) for p in network.parameters())
            diverged = len(history) < FINETUNE_EPOCHS or not finite
            yield TrainingRun(
                variant=name,
                seed=seed,
                lr=lr,
                pretrained_top1=pretrained,
                first_step_loss=first,
                diverged=diverged,
                top1=history + [CHANCE] * (FINETUNE_EPOCHS - len(history)),
                deployed_top1=CHANCE if diverged else deployed_score(network, val_images, val_labels),
                seconds=round(time.perf_counter() - began, 1),
            )


def load(split: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 32, 32), normalised, and labels (N,)."""
    images = torch.from_numpy(Fashion(split).items.copy()).float().unsqueeze(1) / 255
    labels = torch.arange(len(images)) // IMAGES_PER_CLASS[split]
    return F.pad((images - 0.286) / 0.353, (2, 2, 2, 2), value=-0.286 / 0.353), labels


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    lr: float,
    seed: int,
    after_epoch: Callable[[nn.Module], float] = lambda model: 0.0,
) -> list[float]:
    """SGD with momentum and a cosine; what `after_epoch` says after each epoch. Ends early if the loss diverges."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 1e-4}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    steps = epochs * (len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    history = []
    for _ in range(epochs):
        model.train()
        for index in torch.randperm(len(images), generator=generator).split(BATCH_SIZE)[: steps // epochs]:
            batch = images[index]
            batch = batch.flip(-1) if torch.rand((), generator=generator) < 0.5 else batch
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch), labels[index])
            if not math.isfinite(loss.item()):
                return history
            loss.backward()
            optimizer.step()
            schedule.step()
        history.append(after_epoch(model))
    return history


def loss_of_first_step(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The training-mode loss on a batch that calibration has not seen, nothing changed by it."""
    with torch.no_grad():
        return F.cross_entropy(copy.deepcopy(model).train()(images[2::4]), labels[2::4]).item()


def score(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 in percent."""
    model.eval()
    with torch.no_grad():
        hits = [(model(x).argmax(1) == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return 100 * sum(int(hit) for hit in hits) / len(images)


def deployed_score(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return score(zoo.deploy(model.eval(), images[:2]), images, labels)


def summary(runs: list[TrainingRun]) -> dict[str, Any]:
    """For each start: its best learning rate (by mean final top-1), mean and standard deviation over seeds."""
    table = {}
    for start in STARTS:
        by_lr = {lr: [run for run in runs if run.variant == start and run.lr == lr] for lr in LEARNING_RATES}
        lr, best = max(by_lr.items(), key=lambda item: statistics.mean(run.top1[-1] for run in item[1]))
        curves = list(zip(*(run.top1 for run in best), strict=True))
        table[start] = {
            "lr": lr,
            "n": len(best),
            "top1_mean": [statistics.mean(values) for values in curves],
            "top1_std": [statistics.stdev(values) for values in curves],
            "first_step_loss": [run.first_step_loss for run in best],
            "diverged": sum(run.diverged for run in runs if run.variant == start),
            "same_top1_deployed": all(run.deployed_top1 == run.top1[-1] for run in best),
            "final_top1_of_other_rates": {
                rate: statistics.mean(run.top1[-1] for run in group) for rate, group in by_lr.items() if rate != lr
            },
        }
    return table


def plot(table: dict[str, Any], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for start, row in table.items():
        epochs = range(1, len(row["top1_mean"]) + 1)
        axes.errorbar(epochs, row["top1_mean"], row["top1_std"], label=f"{start} (lr {row['lr']})", capsize=3)
    axes.set(xlabel="epoch of fine-tuning", ylabel="validation top-1 / %", xticks=list(epochs))
    axes.legend()
    axes.set_title(f"Fine-tuning, {len(SEEDS)} seeds: mean and standard deviation")
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
