"""Where a network's time goes: per layer and per branch, train structure beside deployed, in eager PyTorch."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.bench.memory import bounded_memory, is_out_of_memory
from zoo.bench.results import Row, failure
from zoo.bench.statistics import summarize
from zoo.bench.structures import build_structures
from zoo.bench.timing import Plan, interleave
from zoo.export.torch_engines import torch_threads
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.fold import NORM_LAYERS

OUTSIDE = "(outside layers)"
"""Additions, reshapes and dispatch: the whole forward pass less its layers."""


def kind_of(module: nn.Module) -> str:
    """What a layer is called in the table of kinds: convolutions by kernel, the others by class."""
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
        handles = []
        for name in ["", *self.levels]:
            self.seconds[name].append(0.0)
            module = self.model.get_submodule(name)
            handles += [
                module.register_forward_pre_hook(self._before(name)),
                module.register_forward_hook(self._after(name)),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            self._started[name] = self._now(args)

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.seconds[name][-1] += self._now(args) - self._started[name]

        return hook

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
    on_round: Callable[[int], None] = lambda done: None,
) -> list[Row]:
    """Rows for the network, its blocks, branches and layers in each structure; structures run interleaved.

    Each row has `level` (network, block, branch, layer, kind), `median` and `iqr` in seconds, and `share` of the
    network's median. Hooks cost about a microsecond each, which shows in the smallest layers.

    Raises:
        ValueError: Unknown model or structure.
    """
    setting = {
        "model": model,
        "batch_size": batch_size,
        "img_size": img_size,
        "threads": threads,
        "device": device,
    }
    try:
        with torch_threads(threads), bounded_memory():
            example = torch.randn(batch_size, 3, img_size, img_size, device=device)
            networks = build_structures(model, list(structures), example)
            recorders = {structure: Recorder(network) for structure, network in networks.items()}
            calls = {s: _inference(recorder, example) for s, recorder in recorders.items()}
            timings = interleave(calls, plan, on_round=on_round)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return [{**setting, "structure": s, "level": "network", "name": "", **failure(error)} for s in structures]
    rows = []
    for structure, recorder in recorders.items():
        kept = timings.rounds * timings.calls[structure]
        rows += [{**setting, "structure": structure, "status": "ok", **row} for row in _rows(recorder, kept)]
    return rows


def _inference(recorder: Recorder, example: Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode(), recorder.watching():
            return recorder.model(example)

    return run


def _rows(recorder: Recorder, kept: int) -> Iterator[Row]:
    """Every watched module, then the layers summed by kind; `kept` calls at the end are those that count."""
    whole = summarize(recorder.seconds[""][-kept:])

    def row(level: str, name: str, kind: str, seconds: Sequence[float]) -> Row:
        summary = summarize(seconds)
        figures = {"n": summary.n, "median": summary.median, "iqr": summary.iqr}
        return {"level": level, "name": name, "kind": kind, **figures, "share": summary.median / whole.median}

    yield row("network", "", type(recorder.model).__name__, recorder.seconds[""][-kept:])
    kinds: dict[str, list[float]] = defaultdict(lambda: [0.0] * kept)
    for name, level in recorder.levels.items():
        seconds, module = recorder.seconds[name][-kept:], recorder.model.get_submodule(name)
        if not any(seconds):  # not called in a forward pass
            continue
        yield row(level, name, kind_of(module), seconds)
        inner = level == "block" or (level == "branch" and next(module.children(), None) is not None)
        if not inner:
            kinds[kind_of(module)] = [sum(pair) for pair in zip(kinds[kind_of(module)], seconds, strict=True)]
    layers = [sum(calls) for calls in zip(*kinds.values(), strict=True)] or [0.0] * kept
    outside = [max(total - part, 0.0) for total, part in zip(recorder.seconds[""][-kept:], layers, strict=True)]
    for kind, seconds in [*kinds.items(), (OUTSIDE, outside)]:
        yield row("kind", kind, kind, seconds)
