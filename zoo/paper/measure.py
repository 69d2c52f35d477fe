"""Time the networks of a table on this machine: its latency, throughput and training columns."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch

import zoo
from zoo.bench.statistics import Summary, summarize
from zoo.bench.structures import settle_norms
from zoo.bench.timing import Call, Plan, inference, interleave
from zoo.bench.train_step import Step, step_memory
from zoo.paper.reproduce import build
from zoo.published import tables
from zoo.results.records import TrainStep


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
    plan = plan or Plan()
    measured = Measured(values={}, samples={})

    def time(column: tables.Column, calls: Mapping[str, Call]) -> None:
        for name, samples in interleave(calls, plan).samples.items() if calls else ():
            measured.samples[name, column.key] = summary = summarize(samples)
            per_call = summary.median
            measured.values[name, column.key] = batch_size / per_call if column.kind == "throughput" else per_call

    for column in table.columns:
        if column.kind in ("latency", "throughput"):
            time(column, {row.name: _inference(row, column.structure, batch_size, img_size) for row in rows})
    training = {column.kind: column for column in table.columns if column.kind.startswith("train_")}
    steps = {row.name: _training_step(row, batch_size, img_size) for row in rows} if training else {}
    if column := training.get("train_step"):
        time(column, steps)
    if column := training.get("train_memory"):
        measured.values.update({(name, column.key): step_memory(step)[1] for name, step in steps.items()})
    return measured


def _inference(row: tables.Row, structure: str, batch_size: int, img_size: int | None) -> Call:
    model, side = build(row, "cpu"), img_size or row.input_size
    images = torch.randn(batch_size, 3, side, side)
    settle_norms(model, images)  # maps that vanish would be timed as denormals
    return inference(zoo.deploy(model, verify=False) if structure == "deployed" else model, images)


def _training_step(row: tables.Row, batch_size: int, img_size: int | None) -> Step:
    record = TrainStep(
        model=row.name,
        structure="train",
        layout="nchw",
        precision="fp32",
        batch_size=batch_size,
        img_size=img_size or row.input_size,
        threads=torch.get_num_threads(),
    )
    return Step(build(row, "cpu"), record)
