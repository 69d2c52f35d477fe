"""Concat vs Add: RepGhost's question (arXiv 2211.06088, section 3.1) asked of this machine.

Ghost modules concatenate two maps, RepGhost modules add them. Four comparisons, from the operator outwards:

    operator      concat and add of the same two maps. Bytes alone predict 4 : 3 (both read two maps; one writes two)
    equal width   concat of two maps, and add of two maps as wide as its result: the same output
    module        timm's Ghost module and RepGhost module, the same input and output width, BatchNorms folded
    network       timm's GhostNet and RepGhostNet of the same width multiplier, both deployed

The paper shows the first; a network exchanges what the second compares.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from timm.models.ghostnet import GhostModule
from timm.models.repghost import RepGhostModule
from torch import Tensor, nn

from zoo.bench.joins import JOINS
from zoo.bench.memory import bounded_memory
from zoo.bench.results import Row, failure
from zoo.bench.statistics import noise_warning, paired_ratio, summarize
from zoo.bench.structures import build_structures, settle_norms
from zoo.bench.timing import Plan, Timings, interleave
from zoo.export.compile import BUILDERS, deployed_network
from zoo.export.engines import Source, refusal
from zoo.export.torch_engines import torch_threads

Calls = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Shape:
    """One of the two maps that the first Ghost module of a bottleneck joins; `inputs` are the module's channels."""

    stage: str
    inputs: int
    channels: int
    side: int


SHAPES = (
    Shape("1", 16, 8, 112),
    Shape("2", 16, 24, 112),
    Shape("3", 24, 36, 56),
    Shape("3b", 40, 60, 28),
    Shape("4", 80, 100, 14),
    Shape("4b", 80, 240, 14),
    Shape("5", 160, 480, 7),
)
"""GhostNet 1.0x at 224² (arXiv 1911.11907, table 1): half of each expansion width at the side it is computed at."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operator comparison: a stage's shape at a batch size on an engine in a layout."""

    shape: Shape
    batch_size: int
    engine: str
    layout: str
    threads: int

    def row(self, comparison: str) -> Row:
        return {
            "comparison": comparison,
            "stage": self.shape.stage,
            "channels": self.shape.channels,
            "side": self.shape.side,
            "batch_size": self.batch_size,
            "engine": self.engine,
            "layout": self.layout,
            "threads": self.threads,
        }


def cases(engines: Sequence[str], layouts: Sequence[str], batch_sizes: Sequence[int], threads: int) -> Iterator[Case]:
    """Every stage at every batch size, per engine and layout."""
    for engine, layout, batch, shape in itertools.product(engines, layouts, batch_sizes, SHAPES):
        yield Case(shape=shape, batch_size=batch, engine=engine, layout=layout, threads=threads)


def measure_operators(case: Case, plan: Plan) -> list[Row]:
    """The operator row and the equal-width row of one case, timed against each other.

    Bytes count what must be read and written, without the reads that some CPUs make before a write.
    """
    rows = [case.row("operator"), case.row("equal width")]
    shape = case.shape
    elements = case.batch_size * shape.channels * shape.side**2

    def calls() -> Calls:
        a, b = (_map(case, shape.channels) for _ in range(2))
        wide_a, wide_b = (_map(case, 2 * shape.channels) for _ in range(2))
        join = JOINS[case.engine]
        axis = 1 if case.layout == "nchw" or case.engine in ("eager", "compile") else 3
        return {
            "concat": join("concat", axis, a, b, case.threads),
            "add": join("add", axis, a, b, case.threads),
            "wide add": join("add", axis, wide_a, wide_b, case.threads),
        }

    timings = _time(calls, plan, rows, case.engine)
    if timings is not None:
        _compare(rows[0], timings, "concat", "add", (16 * elements, 12 * elements))
        _compare(rows[1], timings, "concat", "wide add", (16 * elements, 24 * elements))
    return rows


def _map(case: Case, channels: int) -> Tensor:
    """A random map. Torch keeps the shape (N, C, H, W) in both layouts; for the graph engines NHWC is a shape."""
    size = (case.batch_size, channels, case.shape.side, case.shape.side)
    if case.layout == "nchw":
        return torch.randn(size)
    if case.engine in ("eager", "compile"):
        return torch.randn(size).contiguous(memory_format=torch.channels_last)
    return torch.randn(size[0], size[2], size[3], size[1])


def measure_modules(shape: Shape, batch_size: int, engine: str, threads: int, plan: Plan) -> Row:
    """timm's Ghost module (concat) against RepGhost's (add) of the same input and output width, both deployed."""
    row = {**Case(shape=shape, batch_size=batch_size, engine=engine, layout="", threads=threads).row("module")}

    def calls() -> Calls:
        images = torch.randn(batch_size, shape.inputs, shape.side, shape.side)
        modules = {"concat": GhostModule, "add": RepGhostModule}
        return {
            name: _on_engine(_prepared(make(shape.inputs, 2 * shape.channels), images), engine, images, threads)
            for name, make in modules.items()
        }

    return _measure_pair(row, calls, plan, engine)


def measure_networks(width: float, batch_size: int, img_size: int, engine: str, threads: int, plan: Plan) -> Row:
    """timm's GhostNet against RepGhostNet of the same width multiplier, deployed, on the same engine."""
    row: Row = {"comparison": "network", "stage": f"{width:.1f}x", "side": img_size, "batch_size": batch_size}
    row |= {"engine": engine, "layout": "", "threads": threads}

    def calls() -> Calls:
        images = torch.randn(batch_size, 3, img_size, img_size)
        names = {"concat": f"timm/ghostnet_{round(100 * width):03d}", "add": f"repghostnet_{width:.1f}x"}
        networks = {key: build_structures(name, ["deployed"], images)["deployed"] for key, name in names.items()}
        return {key: _on_engine(network, engine, images, threads) for key, network in networks.items()}

    return _measure_pair(row, calls, plan, engine)


def _prepared(module: nn.Module, images: Tensor) -> nn.Module:
    settle_norms(module, images)
    return deployed_network(module, images)


def _on_engine(network: nn.Module, engine: str, images: Tensor, threads: int) -> Callable[[], object]:
    run = BUILDERS[engine](Source(network, images, threads=threads), "fp32")
    return lambda: run(images)


def _measure_pair(row: Row, calls: Callable[[], Calls], plan: Plan, engine: str) -> Row:
    timings = _time(calls, plan, [row], engine)
    if timings is not None:
        _compare(row, timings, "concat", "add")
    return row


def _time(calls: Callable[[], Calls], plan: Plan, rows: list[Row], engine: str) -> Timings | None:
    """Build and time; where that is impossible, say why in the rows and give None."""
    try:
        if reason := refusal(engine, "fp32"):
            raise ValueError(reason)
        with torch_threads(rows[0]["threads"]), bounded_memory():
            return interleave(calls(), plan)
    except (RuntimeError, ValueError, MemoryError) as error:
        for row in rows:
            row |= failure(error)
        return None


def _compare(row: Row, timings: Timings, concat: str, add: str, moved: tuple[int, int] | None = None) -> None:
    """Times (s), bytes and bytes/s of both, and time(concat) / time(add) with its interval."""
    row["status"] = "ok"
    for key, name, size in zip(("concat", "add"), (concat, add), moved or (None, None), strict=True):
        summary = summarize(timings.samples[name])
        row[key] = dataclasses.asdict(summary)
        if size is not None:
            row[key] |= {"bytes": size, "bandwidth": size / summary.median}
    ratio = paired_ratio(timings.samples[concat], timings.samples[add])
    row["ratio"], row["warning"] = dataclasses.asdict(ratio), noise_warning(ratio)
