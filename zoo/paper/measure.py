"""Time the networks of a table on this machine: its latency, throughput and training columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from zoo.bench.memory import tensor_peak
from zoo.bench.statistics import Summary, summarize
from zoo.bench.timing import Plan, interleave
from zoo.paper import tables
from zoo.paper.reproduce import build


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything measured for one table.

    values: (row name, column key) → seconds, images/s or bytes, as `reproduce` takes them.
    samples: the same keys → n, median and spread of the time of one call in seconds.
    """

    values: dict[tuple[str, str], float]
    samples: dict[tuple[str, str], Summary]


def measure(
    table: tables.Table,
    rows: Sequence[tables.Row] | None = None,
    *,
    batch_size: int = 1,
    img_size: int | None = None,
    plan: Plan | None = None,
) -> Measured:
    """Measure the times and the training memory of every row whose network is in the zoo.

    Networks run eagerly in float32 with random weights, on torch's present number of threads; all rows of a
    column are timed in turn. A latency is of one batch, a throughput in images per second, a training step is
    forward, backward and SGD of one batch, and training memory is the peak of live tensors during it.

    Args:
        rows: Some of the table's rows; all of them if not given.
        img_size: Height and width of the images; each row's own (the paper's) if not given.

    Raises:
        ValueError: a row names a network that is not registered.
    """
    rows = [row for row in (table.rows if rows is None else rows) if row.model]
    measured = Measured(values={}, samples={})
    training = [column for column in table.columns if column.kind.startswith("train_")]
    for column in table.columns:
        if column.kind in ("latency", "throughput"):
            calls = {row.name: _inference(row, column.structure, batch_size, img_size) for row in rows}
            _time(calls, [column], plan, batch_size, measured)
    if training:
        steps = {row.name: _training_step(row, batch_size, img_size) for row in rows}
        _time(steps, [c for c in training if c.kind == "train_step"], plan, batch_size, measured)
        for column in training:
            if column.kind == "train_memory":
                measured.values.update(
                    {(name, column.key): tensor_peak(step) for name, step in steps.items()}
                )
    return measured


def _time(
    calls: dict[str, Callable[[], object]],
    columns: Sequence[tables.Column],
    plan: Plan | None,
    batch_size: int,
    measured: Measured,
) -> None:
    if not calls or not columns:
        return
    timings = interleave(calls, plan or Plan())
    for name, samples in timings.samples.items():
        summary = summarize(samples)
        for column in columns:
            measured.samples[name, column.key] = summary
            measured.values[name, column.key] = (
                batch_size / summary.median if column.kind == "throughput" else summary.median
            )


def _inference(
    row: tables.Row, structure: str, batch_size: int, img_size: int | None
) -> Callable[[], object]:
    model, images = build(row, structure, device="cpu"), _images(row, batch_size, img_size)

    def call() -> object:
        with torch.inference_mode():
            return model(images)

    return call


def _training_step(row: tables.Row, batch_size: int, img_size: int | None) -> Callable[[], object]:
    model: nn.Module = build(row, "train", device="cpu").train()
    images, labels = _images(row, batch_size, img_size), torch.zeros(batch_size, dtype=torch.long)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def _images(row: tables.Row, batch_size: int, img_size: int | None) -> torch.Tensor:
    size = img_size or row.input_size
    return torch.randn(batch_size, 3, size, size)
