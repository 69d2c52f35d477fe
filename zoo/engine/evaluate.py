"""Predictions of networks over a whole set, each image exactly once however many processes share it."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.engine.distributed import Processes, all_sum, gather
from zoo.engine.hardware import autocast
from zoo.engine.loss import full_precision, main_output


@dataclass(kw_only=True)
class Predictions:
    """What a network answered to every image of a set, in the order of the set."""

    index: Tensor
    """position of the image in the set, (N,); -1 in streams"""
    targets: Tensor
    """true classes, (N,)"""
    classes: Tensor
    """the (up to) five most probable classes, best first, (N, 5)"""
    loss: float
    """mean cross-entropy"""

    @property
    def count(self) -> int:
        return len(self.targets)

    @property
    def top1(self) -> float:
        """Accuracy in percent."""
        return self._top(1)

    @property
    def top5(self) -> float:
        """Share of images whose class is among the first five, in percent."""
        return self._top(5)

    def _top(self, k: int) -> float:
        hits = (self.classes[:, :k] == self.targets[:, None]).any(1)
        return 100 * int(hits.sum()) / max(self.count, 1)

    def confusion(self, num_classes: int) -> Tensor:
        """Counts (true class, predicted class)."""
        cells = self.targets * num_classes + self.classes[:, 0]
        return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)

    def real_top1(self, labels: list[list[int]]) -> float:
        """Top-1 in percent against ImageNet-ReaL (2006.07159): any of an image's labels; none, left out."""
        judged = [(int(c), labels[int(i)]) for i, c in zip(self.index, self.classes[:, 0], strict=True)]
        hits = [predicted in accepted for predicted, accepted in judged if accepted]
        return 100 * sum(hits) / max(len(hits), 1)

    def to_dict(self) -> dict[str, float | int]:
        return {"top1": self.top1, "top5": self.top5, "loss": self.loss, "count": self.count}


@dataclass(kw_only=True)
class Agreement:
    """Two networks' answers to the same images."""

    count: int = 0
    same_top1: int = 0
    """images on which both have the same most probable class"""
    max_relative_difference: float = 0.0
    """largest |difference of logits| over the largest |logit|, over all images"""

    @property
    def identical(self) -> bool:
        """Both name the same class for every image."""
        return self.same_top1 == self.count

    def to_dict(self) -> dict[str, float | int | bool]:
        return {
            "count": self.count,
            "same_top1": self.same_top1,
            "identical_top1": self.identical,
            "max_relative_difference": self.max_relative_difference,
        }


@dataclass
class _Tally:
    """One network's answers so far, in this process."""

    index: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    classes: list[Tensor] = field(default_factory=list)
    loss: float = 0.0


def evaluate(
    networks: dict[str, nn.Module],
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    dtype: torch.dtype = torch.float32,
    processes: Processes | None = None,
    compare: Iterable[tuple[str, str]] = (),
) -> tuple[dict[str, Predictions], dict[tuple[str, str], Agreement]]:
    """Run several networks over the same images, each batch loaded once.

    Args:
        networks: name → network; evaluated in eval mode, left in the mode they were in.
        batches: (images, targets, index) of this process's share of the set.
        dtype: autocast precision; float32 is none.
        compare: pairs of names whose answers are compared image by image.

    Returns: the predictions of each network and the agreement of each pair, over all processes.
    """
    processes = processes or Processes()
    tallies = {name: _Tally() for name in networks}
    agreements = {pair: Agreement() for pair in compare}
    device = torch.device("cpu")
    with torch.inference_mode(), eval_mode(networks.values()):
        for images, targets, index in batches:
            device = images.device
            with autocast(device, dtype):
                outputs = {name: full_precision(main_output(network(images))) for name, network in networks.items()}
            for name, logits in outputs.items():
                _count(tallies[name], logits, targets, index)
            for (one, other), agreement in agreements.items():
                _compare(agreement, outputs[one], outputs[other])
    predictions = {name: _collect(tally, processes, device) for name, tally in tallies.items()}
    return predictions, {pair: _sum(agreement, processes) for pair, agreement in agreements.items()}


@contextlib.contextmanager
def eval_mode(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Eval mode for the time of the block; every module then returns to the mode it was in."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _count(tally: _Tally, logits: Tensor, targets: Tensor, index: Tensor) -> None:
    tally.loss += float(F.cross_entropy(logits, targets, reduction="sum"))
    tally.classes.append(logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu())
    tally.targets.append(targets.cpu())
    tally.index.append(index.cpu())


def _compare(agreement: Agreement, one: Tensor, other: Tensor) -> None:
    scale = float(one.abs().max())
    difference = float((one - other).abs().max()) / (scale or 1.0)
    agreement.count += len(one)
    agreement.same_top1 += int((one.argmax(1) == other.argmax(1)).sum())
    agreement.max_relative_difference = max(agreement.max_relative_difference, difference)


def _collect(tally: _Tally, processes: Processes, device: torch.device) -> Predictions:
    own = [torch.cat(t) if t else torch.empty(0, dtype=torch.int64) for t in (tally.index, tally.targets)]
    parts = gather((*own, torch.cat(tally.classes) if tally.classes else None), processes)
    parts = [part for part in parts if part[2] is not None]
    if not parts:
        raise ValueError("the validation set holds no image")
    index, targets, classes = (torch.cat([part[i] for part in parts]) for i in range(3))
    order = index.argsort(stable=True)
    loss = all_sum([tally.loss], processes, device)[0] / len(targets)
    return Predictions(index=index[order], targets=targets[order], classes=classes[order], loss=loss)


def _sum(agreement: Agreement, processes: Processes) -> Agreement:
    parts = gather(agreement, processes)
    return Agreement(
        count=sum(part.count for part in parts),
        same_top1=sum(part.same_top1 for part in parts),
        max_relative_difference=max((p.max_relative_difference for p in parts), key=lambda d: (math.isnan(d), d)),
    )
