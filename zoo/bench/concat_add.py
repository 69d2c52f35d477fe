"""Concat vs Add: RepGhost's question (arXiv 2211.06088, section 3.1) asked of this machine.

Ghost modules concatenate two maps, RepGhost modules add them. Four comparisons, from the operator outwards:

    operator      concat and add of the same two maps. Bytes alone predict 4 : 3 (both read two maps; one writes two)
    equal width   concat of two maps, and add of two maps as wide as its result: the same output
    module        timm's Ghost module and RepGhost module, the same input and output width, BatchNorms folded
    network       timm's GhostNet and RepGhostNet of the same width multiplier, both deployed

The paper shows the first; a network exchanges what the second compares.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.models.ghostnet import GhostModule
from timm.models.repghost import RepGhostModule
from torch import Tensor, nn

from zoo.bench.joins import JOINS
from zoo.bench.outcome import measuring
from zoo.bench.statistics import noise_warning, paired_ratio, summarize
from zoo.bench.structures import build_structures, settle_norms
from zoo.bench.timing import Plan, Timings, interleave
from zoo.export.compile import BUILDERS, deployed_network
from zoo.export.engines import Source, refusal
from zoo.results.records import Join, Side

TORCH = ("eager", "compile")
IMPOSSIBLE = (RuntimeError, ValueError)
"""What an engine raises on what it cannot take."""


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


def _record(comparison: str, shape: Shape, **setting: Any) -> Join:
    """The record of a comparison at a shape before it is timed."""
    return Join(comparison=comparison, stage=shape.stage, channels=shape.channels, side=shape.side, **setting)


def measure_operators(shape: Shape, batch_size: int, engine: str, layout: str, threads: int, plan: Plan) -> list[Join]:
    """The operator record and the equal-width record of one case, timed against each other.

    Bytes count what must be read and written, without the reads that some CPUs make before a write.
    """
    setting = {"batch_size": batch_size, "engine": engine, "layout": layout, "threads": threads}
    records = [_record(comparison, shape, **setting) for comparison in ("operator", "equal width")]
    elements = batch_size * shape.channels * shape.side**2
    with measuring(records, threads, IMPOSSIBLE):
        _check(engine)
        a, b = (_map(records[0], shape.channels) for _ in range(2))
        wide_a, wide_b = (_map(records[0], 2 * shape.channels) for _ in range(2))
        join = JOINS[engine]
        axis = 1 if layout == "nchw" or engine in TORCH else 3
        calls = {
            "concat": join("concat", axis, a, b, threads),
            "add": join("add", axis, a, b, threads),
            "wide add": join("add", axis, wide_a, wide_b, threads),
        }
        timings = interleave(calls, plan)
        _compare(records[0], timings, "concat", "add", (16 * elements, 12 * elements))
        _compare(records[1], timings, "concat", "wide add", (16 * elements, 24 * elements))
    return records


def _map(record: Join, channels: int) -> Tensor:
    """A random map. Torch keeps the shape (N, C, H, W) in both layouts; for the graph engines NHWC is a shape."""
    if record.layout == "nchw":
        return torch.randn(record.batch_size, channels, record.side, record.side)
    nhwc = torch.randn(record.batch_size, record.side, record.side, channels)
    return nhwc.permute(0, 3, 1, 2) if record.engine in TORCH else nhwc


def measure_modules(shape: Shape, batch_size: int, engine: str, threads: int, plan: Plan) -> list[Join]:
    """timm's Ghost module (concat) against RepGhost's (add) of the same input and output width, both deployed."""
    record = _record("module", shape, batch_size=batch_size, engine=engine, layout="", threads=threads)
    with measuring([record], threads, IMPOSSIBLE):
        _check(engine)
        images = torch.randn(batch_size, shape.inputs, shape.side, shape.side)
        networks = {}
        for name, module_class in (("concat", GhostModule), ("add", RepGhostModule)):
            module = module_class(shape.inputs, 2 * shape.channels)
            settle_norms(module, images)
            networks[name] = deployed_network(module, images)
        _measure_pair(record, networks, images, plan)
    return [record]


def measure_networks(width: float, batch_size: int, img_size: int, engine: str, threads: int, plan: Plan) -> list[Join]:
    """timm's GhostNet against RepGhostNet of the same width multiplier, deployed, on the same engine."""
    case = {"comparison": "network", "stage": f"{width:.1f}x", "side": img_size}
    record = Join(**case, batch_size=batch_size, engine=engine, layout="", threads=threads)
    with measuring([record], threads, IMPOSSIBLE):
        _check(engine)
        images = torch.randn(batch_size, 3, img_size, img_size)
        names = {"concat": f"timm/ghostnet_{round(100 * width):03d}", "add": f"repghostnet_{width:.1f}x"}
        networks = {key: build_structures(name, ["deployed"], images)["deployed"] for key, name in names.items()}
        _measure_pair(record, networks, images, plan)
    return [record]


def _measure_pair(record: Join, networks: dict[str, nn.Module], images: Tensor, plan: Plan) -> None:
    """Time two deployed networks on the record's engine."""
    build = BUILDERS[record.engine]
    runs = {name: build(Source(net, images, threads=record.threads), "fp32") for name, net in networks.items()}
    timings = interleave({name: partial(run, images) for name, run in runs.items()}, plan)
    _compare(record, timings, "concat", "add")


def _check(engine: str) -> None:
    """Refuse an engine that does not run on this machine. Raises: ValueError."""
    if reason := refusal(engine, "fp32"):
        raise ValueError(reason)


def _compare(record: Join, timings: Timings, concat: str, add: str, moved: tuple[int, int] | None = None) -> None:
    """Put the times (s) and bytes of both and time(concat) / time(add) into the record."""
    concat_bytes, add_bytes = moved or (None, None)
    record.concat = Side(time=summarize(timings.samples[concat]), bytes=concat_bytes)
    record.add = Side(time=summarize(timings.samples[add]), bytes=add_bytes)
    record.ratio = paired_ratio(timings.samples[concat], timings.samples[add])
    record.warning = noise_warning(record.ratio)
