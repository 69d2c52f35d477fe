"""int8 that holds: what top-1 may cost at most, and the ways of quantising that NNCF has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from zoo.export.cpu import saturates_int8
from zoo.export.engines import Run
from zoo.export.graphs import quiet

Graph = TypeVar("Graph")
"""An ONNX graph or an OpenVINO model."""
SPLIT = "coarse and fine"
"""The way that doubles convolutions so that their weights have finer steps."""
MIXED = "mixed precision"
"""The way that always comes last: it starts from int8 and gives up as many layers as the goal takes."""


@dataclass(frozen=True)
class Goal:
    """What int8 may cost: `max_drop` points of top-1 on labelled images.

    batches: (images, targets, …) of the whole set, anew each time it is iterated.
    """

    batches: Iterable[Sequence[Any]]
    max_drop: float

    @torch.no_grad()
    def top1(self, run: Run, batch_size: int | None = None) -> float:
        """Measure top-1 in per cent.

        Args:
            batch_size: Images that `run` takes at a time; None if any number.

        Raises:
            ValueError: There are no images.
        """
        right = total = 0
        for images, targets, *_ in self.batches:
            size = batch_size or len(images)
            full = torch.cat([images, images[:1].repeat_interleave(-len(images) % size, 0)])
            answers = torch.cat([run(part) for part in full.split(size)])[: len(images)]
            right += int((answers.argmax(1) == targets).sum())
            total += len(targets)
        if not total:
            raise ValueError("no labelled images to measure top-1 on")
        return 100 * right / total


@dataclass(frozen=True)
class Attempt:
    """A way of quantising (or `fp32`), and the network's top-1 with it in per cent."""

    way: str
    top1: float


def by_nncf(graph: Graph, items: Sequence[Any], ignored: Sequence[str] = (), **options: Any) -> Graph:
    """Quantise by NNCF: weights per output channel, activations per tensor, biases corrected.

    Args:
        items: Batches of images as the graph takes them.
        ignored: Names of operations that stay in floating point.
        options: Of `nncf.AdvancedQuantizationParameters`.
    """
    import nncf

    with quiet("nncf"):
        return nncf.quantize(
            graph, nncf.Dataset(items), advanced_parameters=_advanced(**options), **_common(items, ignored)
        )


def by_sensitivity(
    graph: Graph,
    items: Sequence[Any],
    ignored: Sequence[str],
    goal: Goal,
    as_item: Callable[[Any], Any],
    runner: Callable[[Any], Run],
) -> Graph:
    """Quantise by NNCF, then return layers to floating point, the most sensitive first, until the goal is reached.

    Args:
        items, ignored: As in `by_nncf`.
        as_item: Images → what the graph takes.
        runner: Makes callable what NNCF hands over to be judged.
    """
    import nncf

    with quiet("nncf"):
        return nncf.quantize_with_accuracy_control(
            graph,
            nncf.Dataset(items),
            nncf.Dataset(goal.batches, lambda batch: as_item(batch[0])),
            lambda model, _: (goal.top1(runner(model)), None),
            max_drop=goal.max_drop,
            advanced_quantization_parameters=_advanced(),
            **_common(items, ignored),
        )


def _advanced(**options: Any) -> Any:
    """Give NNCF's finer options. Where this CPU would saturate on 8 bits, all weights have 7, not just one layer's."""
    import nncf
    from nncf.quantization.advanced_parameters import OverflowFix

    overflow_fix = OverflowFix.ENABLE if saturates_int8() else None
    return nncf.AdvancedQuantizationParameters(overflow_fix=overflow_fix, **options)


def _common(items: Sequence[Any], ignored: Sequence[str]) -> dict[str, Any]:
    import nncf

    return {
        "subset_size": len(items),
        "preset": nncf.QuantizationPreset.PERFORMANCE,
        "ignored_scope": nncf.IgnoredScope(names=list(ignored), validate=False),
    }
