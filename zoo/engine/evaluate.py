"""Predictions of networks over a whole set, each image exactly once however many processes share it."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.compare import Agreement
from zoo.engine.distributed import Processes, all_sum, gather
from zoo.engine.hardware import autocast
from zoo.engine.loss import full_precision
from zoo.network import main_output


@dataclass(kw_only=True)
class Predictions:
    """A network's answers to every image of a set, in the order of the set."""

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
    answers: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in networks}
    losses = dict.fromkeys(networks, 0.0)
    agreements = {pair: Agreement() for pair in compare}
    with torch.inference_mode(), eval_mode(networks.values()):
        for images, targets, index in batches:
            with autocast(images.device, dtype):
                outputs = {name: full_precision(main_output(network(images))) for name, network in networks.items()}
            for name, logits in outputs.items():
                losses[name] += float(F.cross_entropy(logits, targets, reduction="sum"))
                best = logits.topk(min(5, logits.shape[1]), dim=1).indices
                answers[name].append((index.cpu(), targets.cpu(), best.cpu()))
            for one, other in agreements:
                agreements[one, other] += Agreement.of(outputs[other], outputs[one])
    predictions = {name: _collect(answers[name], losses[name], processes) for name in networks}
    return predictions, {pair: sum(gather(own, processes), Agreement()) for pair, own in agreements.items()}


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


def _collect(own: list[tuple[Tensor, Tensor, Tensor]], loss: float, processes: Processes) -> Predictions:
    """Put the answers of all processes, (index, targets, classes) of each batch, into the order of the set."""
    parts = [part for parts in gather(own, processes) for part in parts]
    if not parts:
        raise ValueError("the validation set holds no image")
    index, targets, classes = (torch.cat(column) for column in zip(*parts, strict=True))
    order = index.argsort(stable=True)
    mean = all_sum([loss], processes)[0] / len(targets)
    return Predictions(index=index[order], targets=targets[order], classes=classes[order], loss=mean)
