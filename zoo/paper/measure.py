"""Time the networks of a table on this machine: its latency, throughput and training columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

import zoo
from zoo.bench.statistics import Summary, summarize
from zoo.bench.structures import settle_norms
from zoo.bench.timing import Plan, interleave
from zoo.bench.train_step import Contender, Step, step_memory
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
    forward, backward and SGD of one batch, and training memory is the peak of the tensors that step makes.

    Args:
        rows: Some of the table's rows; all of them if not given.
        img_size: Height and width of the images; each row's own (the paper's) if not given.

    Raises:
        ValueError: a row names a network that is not registered.
    """
    rows = [row for row in (table.rows if rows is None else rows) if row.model]
    images = {row.name: torch.randn(batch_size, 3, *[img_size or row.input_size] * 2) for row in rows}
    measured = Measured(values={}, samples={})
    for column in table.columns:
        if column.kind in ("latency", "throughput"):
            calls = {row.name: _inference(row, column.structure, images[row.name]) for row in rows}
            _time(calls, column, plan, batch_size, measured)
    training = {column.kind: column for column in table.columns if column.kind.startswith("train_")}
    if training:
        steps = {row.name: _training_step(row, batch_size, img_size) for row in rows}
        if column := training.get("train_step"):
            _time(steps, column, plan, batch_size, measured)
        if column := training.get("train_memory"):
            measured.values.update({(name, column.key): step_memory(step)[1] for name, step in steps.items()})
    return measured


def _time(
    calls: dict[str, Callable[[], object]] | dict[str, Step],
    column: tables.Column,
    plan: Plan | None,
    batch_size: int,
    measured: Measured,
) -> None:
    if not calls:
        return
    for name, samples in interleave(calls, plan or Plan()).samples.items():
        summary = summarize(samples)
        measured.samples[name, column.key] = summary
        measured.values[name, column.key] = (
            batch_size / summary.median if column.kind == "throughput" else summary.median
        )


def _inference(row: tables.Row, structure: str, images: torch.Tensor) -> Callable[[], object]:
    model = build(row, "cpu")
    settle_norms(model, images)  # maps that vanish would be timed as denormals
    if structure == "deployed":
        model = zoo.deploy(model, verify=False)

    def call() -> object:
        with torch.inference_mode():
            return model(images)

    return call


def _training_step(row: tables.Row, batch_size: int, img_size: int | None) -> Step:
    contender = Contender(model=row.name, structure="train", layout="nchw")
    return Step(build(row, "cpu"), contender, batch_size, img_size or row.input_size, "cpu")
