"""What a run shows in pictures, in its folder and in TensorBoard: augmented images, its curves, its worst mistakes."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.tensorboard.writer import SummaryWriter

from zoo.atomic import atomic_write
from zoo.data import ImageSet
from zoo.engine.evaluate import Predictions
from zoo.network import class_names, preprocessing
from zoo.results.grids import picture_grid
from zoo.results.plots import save
from zoo.results.scores import curves

AUGMENTED, CURVES, MISTAKES = "augmented.png", "curves.png", "mistakes.png"
SHOWN = 25
"""Images in a picture."""
NOT_AMONG_FIRST = 5
"""Rank of a true class that is not among the five most probable ones."""


def show_augmented(
    batches: Iterator[tuple[Tensor, Tensor]], network: nn.Module, log: SummaryWriter, folder: Path
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw the first batch as the network will see it, with its labels; return all batches, that one included."""
    images, targets = next(batches)
    names = class_names(network)
    shown = zip(unnormalised(images[:SHOWN], network), targets[:SHOWN], strict=True)
    _show(AUGMENTED, [(picture, _label(target, names)) for picture, target in shown], log, folder, 0)
    return chain([(images, targets)], batches)


def show_results(
    history: Sequence[Mapping[str, Any]],
    predictions: Predictions,
    dataset: object,
    network: nn.Module,
    log: SummaryWriter,
    folder: Path,
) -> None:
    """Draw the curves of a training, and the images that the network is furthest from knowing; a stream has none."""
    with atomic_write(folder / CURVES) as temporary:
        save(curves(history), temporary)
    if not isinstance(dataset, ImageSet):
        return
    names = class_names(network)
    tiles = []
    for i in worst(predictions):
        picture, _ = dataset[int(predictions.index[i])]
        true, taken = int(predictions.targets[i]), int(predictions.classes[i, 0])
        tiles.append((picture, f"{_name(true, names)}\ntaken for {_name(taken, names)}"))
    if tiles:
        _show(MISTAKES, tiles, log, folder, history[-1]["step"])


def worst(predictions: Predictions) -> list[int]:
    """Find the mistakes with the true class furthest down the list; among equals, the same random ones every time."""
    hits = predictions.classes == predictions.targets[:, None]
    ranks = torch.where(hits.any(1), hits.int().argmax(1), NOT_AMONG_FIRST)
    order = torch.randperm(len(ranks), generator=torch.Generator().manual_seed(0))
    order = order[ranks[order].argsort(descending=True, stable=True)]
    return [i for i in order[:SHOWN].tolist() if ranks[i]]


def unnormalised(images: Tensor, network: nn.Module) -> list[Image.Image]:
    """Turn normalised images (N, 3, H, W) back into pictures."""
    said = preprocessing(network)
    mean, std = (torch.tensor(said[key]).view(3, 1, 1) for key in ("mean", "std"))
    pixels = (images.float().cpu() * std + mean).clamp(0, 1) * 255
    return [Image.fromarray(image) for image in pixels.round().byte().permute(0, 2, 3, 1).numpy()]


def _show(name: str, tiles: list[tuple[Image.Image, str]], log: SummaryWriter, folder: Path, step: int) -> None:
    page = picture_grid(tiles)
    with atomic_write(folder / name) as temporary:
        page.save(temporary)
    log.add_image(name.removesuffix(".png"), np.asarray(page), step, dataformats="HWC")
    log.flush()


def _label(target: Tensor, names: Sequence[str]) -> str:
    """The class of an image, or of a mixture the two that make up most of it, with their shares."""
    if not target.ndim:
        return _name(int(target), names)
    shares, classes = (part.tolist() for part in target.topk(2))
    return "\n".join(f"{share:.0%} {_name(i, names)}" for share, i in zip(shares, classes, strict=True))


def _name(number: int, names: Sequence[str]) -> str:
    return names[number] if names else str(number)
