"""Measure a network's time per layer and per branch: train structure beside deployed, in eager PyTorch."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.bench.outcome import measuring
from zoo.bench.statistics import Array, summarize
from zoo.bench.structures import build_structures
from zoo.bench.timing import OnRound, Plan, inference, interleave
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.fold import NORM_LAYERS
from zoo.results.records import LayerTime

OUTSIDE = "(outside layers)"
"""Additions, reshapes and dispatch: the whole forward pass less its layers."""


def kind_of(module: nn.Module) -> str:
    """Name the kind of a layer: convolutions by kernel, the others by class."""
    if isinstance(module, nn.Conv2d):
        name = "x".join(str(size) for size in module.kernel_size)
        return f"depthwise {name}" if module.groups == module.in_channels > 1 else f"conv {name}"
    return "BatchNorm" if isinstance(module, NORM_LAYERS) else type(module).__name__


def watched(model: nn.Module) -> dict[str, str]:
    """{module name: its level}: `block` (multi-branch), `branch` of one, and `layer` (a module without children)."""
    levels: dict[str, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, MultiBranchConv2d):
            levels[name] = "block"
            levels |= {f"{name}.branches.{branch}": "branch" for branch in module.branches}
    for name, module in model.named_modules():
        if name not in levels and next(module.children(), None) is None:
            levels[name] = "layer"
    return levels


class Recorder:
    """Seconds of every watched module, one list entry per call of the network.

    Attributes:
        seconds: Module name → seconds of each call; the empty name is the whole network.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.levels = watched(model)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._started: dict[str, float] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within is one call of the network; what it calls more than once lasts the sum."""
        with ExitStack() as hooks:
            for name in ["", *self.levels]:
                self.seconds[name].append(0.0)
                module = self.model.get_submodule(name)
                hooks.enter_context(module.register_forward_pre_hook(partial(self._before, name)))
                hooks.enter_context(module.register_forward_hook(partial(self._after, name)))
            yield

    def __call__(self, images: Tensor) -> Any:
        with self.watching():
            return self.model(images)

    def _before(self, name: str, module: nn.Module, args: Any) -> None:
        self._started[name] = self._now(args)

    def _after(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self.seconds[name][-1] += self._now(args) - self._started[name]

    @staticmethod
    def _now(args: Any) -> float:
        if args and isinstance(args[0], Tensor) and args[0].is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def profile_model(
    model: str,
    structures: Sequence[str],
    *,
    batch_size: int,
    img_size: int,
    threads: int,
    plan: Plan,
    device: str = "cpu",
    on_round: OnRound = lambda done: None,
) -> list[LayerTime]:
    """Records of the network, its blocks, branches and layers in each structure; structures run interleaved.

    Hooks cost about a microsecond each, which shows in the smallest layers.

    Raises:
        ValueError: Unknown model or structure.
    """
    setting: dict[str, Any] = {"model": model, "device": device}
    setting |= {"batch_size": batch_size, "img_size": img_size, "threads": threads}
    failed = [LayerTime(**setting, structure=structure, level="network", name="") for structure in structures]
    with measuring(failed, threads):
        example = torch.randn(batch_size, 3, img_size, img_size, device=device)
        networks = build_structures(model, list(structures), example)
        recorders = {structure: Recorder(network) for structure, network in networks.items()}
        calls = {s: inference(recorder, example) for s, recorder in recorders.items()}
        timings = interleave(calls, plan, on_round=on_round)
        records = []
        for structure, recorder in recorders.items():
            kept = timings.rounds * timings.calls[structure]
            records += _records(recorder, kept, setting | {"structure": structure})
        return records
    return failed


def _records(recorder: Recorder, kept: int, setting: dict[str, Any]) -> Iterator[LayerTime]:
    """Every watched module, then the layers summed by kind; `kept` calls at the end are those that count."""
    times = {name: np.array(seconds[-kept:]) for name, seconds in recorder.seconds.items()}
    whole = times[""]

    def record(level: str, name: str, kind: str, seconds: Array) -> LayerTime:
        found = summarize(seconds)
        share = found.median / float(np.median(whole))
        timed = {"n": found.n, "median": found.median, "iqr": found.iqr, "share": share}
        return LayerTime(**setting, level=level, name=name, kind=kind, **timed)

    yield record("network", "", type(recorder.model).__name__, whole)
    kinds: dict[str, Array] = defaultdict(lambda: np.zeros(kept))
    for name, level in recorder.levels.items():
        seconds, module = times[name], recorder.model.get_submodule(name)
        if not seconds.any():  # not called in a forward pass
            continue
        yield record(level, name, kind_of(module), seconds)
        inner = level == "block" or (level == "branch" and next(module.children(), None) is not None)
        if not inner:
            kinds[kind_of(module)] += seconds
    outside = np.maximum(whole - sum(kinds.values()), 0.0)
    for kind, seconds in [*kinds.items(), (OUTSIDE, outside)]:
        yield record("kind", kind, kind, seconds)
