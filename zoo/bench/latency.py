"""Latency of networks: structures × engines × precisions, at batch sizes, resolutions and thread counts.

Everything that is compared runs in one interleaved group; a group is one model (or all, on request) at one batch size,
resolution and thread count. A combination that cannot run says why in its row, and the others go on.
"""

import copy
import dataclasses
import itertools
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.bench.memory import resident_peak, tensor_peak
from zoo.bench.outcome import measuring, note_failure, note_times
from zoo.bench.statistics import noise_warning, paired_ratio
from zoo.bench.structures import build_structures
from zoo.bench.timing import OnRound, Plan, Timings, clock_of, inference, interleave
from zoo.checkpoints import Checkpoint
from zoo.compare import compare
from zoo.cost import count, traffic
from zoo.export.compile import BUILDERS, Engine, calibration_batches, compile_for
from zoo.export.engines import Run, Source, refusal
from zoo.network import DOES_NOT_RUN
from zoo.results.records import CONTROL, Latency

AUTO_PRECISIONS = {"fp32": ("fp32",), "bf16": ("fp32", "bf16"), "int8": ("fp32", "bf16", "int8")}
"""The precision of an `auto` row → what its engine may choose from."""
SAME = ("model", "engine", "precision", "batch_size", "img_size", "threads", "device")
"""What the control has in common with its reference."""


def contenders_of(
    model: str, structures: Sequence[str], engines: Sequence[str], precisions: Sequence[str], **setting: Any
) -> list[Latency]:
    """List the records to be filled for one model, its reference first.

    `peer` is there once, eager, in float32 and NCHW: what a user has today. `auto` is of the deployed structure and
    chooses among the precisions, with and without int8.

    Args:
        setting: What all of them share: batch_size, img_size, threads and device.
    """

    def record(structure: str, engine: str = "eager", precision: str = "fp32") -> Latency:
        return Latency(model=model, structure=structure, engine=engine, precision=precision, **setting)

    records = [record("peer")] if "peer" in structures else []
    others = [structure for structure in structures if structure != "peer"]
    fixed = [engine for engine in engines if engine != "auto"]
    records += [record(*each) for each in itertools.product(others, fixed, precisions)]
    if "auto" in engines and "deployed" in structures:
        allowed = [name for name, choice in AUTO_PRECISIONS.items() if set(choice) <= set(precisions)]
        records += [record("deployed", "auto", name) for name in allowed]
    return records


def measure_group(
    records: list[Latency],
    plan: Plan,
    *,
    checkpoint: str | Checkpoint | None = None,
    on_round: OnRound = lambda done: None,
) -> list[Latency]:
    """Time contenders of one setting against each other; fills their records and adds one for the control.

    Args:
        records: The first one that runs is the reference of every ratio.
        checkpoint: Weights for the networks (see `build_structures`).

    Raises:
        ValueError: Unknown model or structure.
    """
    if not records:  # auto of no deployed structure
        return records
    with measuring(records, records[0].threads):  # the images alone may be too large
        return _measure(records, _sources(records, checkpoint), plan, on_round)
    return records


def _sources(records: Sequence[Latency], checkpoint: str | Checkpoint | None) -> dict[tuple[str, str], Source]:
    """Each model and structure once, as all engines receive it: they share one capture of its graph."""
    size = records[0].img_size
    images = torch.randn(records[0].batch_size, 3, size, size, generator=torch.Generator().manual_seed(0))
    example = images.to(records[0].device)
    int8 = any(record.precision == "int8" for record in records)
    calibration = calibration_batches("random", images) if int8 else ()
    sources: dict[tuple[str, str], Source] = {}
    for model in dict.fromkeys(record.model for record in records):
        structures = list(dict.fromkeys(record.structure for record in records if record.model == model))
        for structure, network in build_structures(model, structures, example, checkpoint=checkpoint).items():
            sources[model, structure] = Source(network, example, calibration, torch.get_num_threads())
    return sources


def _measure(
    records: list[Latency], sources: dict[tuple[str, str], Source], plan: Plan, on_round: OnRound
) -> list[Latency]:
    calls: dict[str, Callable[[], object]] = {}
    for record in records:
        source = sources[record.model, record.structure]
        run = _attempt(record, source)
        if run is not None:
            calls[record.name] = partial(run, source.example)
            _count(record, source.network)
    measured = [record for record in records if record.name in calls]
    if not measured:
        return records
    reference = measured[0]
    reference.is_reference = True
    source = sources[reference.model, reference.structure]
    twin = _attempt(copy.copy(reference), dataclasses.replace(source, network=copy.deepcopy(source.network)))
    control = None
    if twin is not None:
        same = {name: getattr(reference, name) for name in SAME}
        control = Latency(structure=CONTROL, **same)
        calls[control.name] = partial(twin, source.example)
        measured.append(control)

    timings = interleave(calls, plan, clock=clock_of(source.example.device), on_round=on_round)
    for record in measured:
        _fill(record, timings, reference, control)
    return [*records, *([control] if control else [])]


def _attempt(record: Latency, source: Source) -> Run | None:
    """Build and call once; puts the status, the error, how exact the answer is and peak memory into the record."""
    answers: list[Tensor] = []
    built: list[Run] = []

    def build_and_call() -> None:
        built.append(_build(record, source))
        answers.append(built[0](source.example))

    try:
        if record.structure == "peer" or record.engine == "eager":
            build_and_call()
            record.peak_memory, record.memory_kind = tensor_peak(lambda: built[0](source.example)), "tensors"
        else:
            record.peak_memory, record.memory_kind = resident_peak(build_and_call), "resident"
        record.parity_error = compare(answers, [inference(source.network, source.example)()]).max_relative_error
    except _engine_errors() as error:
        note_failure(record, error)
        return None
    if isinstance(built[0], Engine):
        record.chosen = built[0].name
    return built[0]


def _build(record: Latency, source: Source) -> Run:
    """The network on its engine. Only `auto` goes through `compile_for`, which deploys whatever it is given."""
    if record.structure == "peer":
        return lambda images: inference(source.network, images)()
    if record.engine == "auto":
        allow = AUTO_PRECISIONS[record.precision]
        return compile_for(source.network, "auto", "auto", source.example, allow=allow, calibration="random")
    if reason := refusal(record.engine, record.precision, source.example.device.type):
        raise ValueError(reason)
    return BUILDERS[record.engine](source, record.precision)


def _engine_errors() -> tuple[type[BaseException], ...]:
    """List the exceptions of an engine that cannot do something; ONNX Runtime's derive from Exception alone."""
    state = sys.modules.get("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [e for e in vars(state).values() if isinstance(e, type) and issubclass(e, Exception)] if state else []
    return (*DOES_NOT_RUN, MemoryError, *own)


ITEM_SIZE = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}


def _count(record: Latency, network: nn.Module) -> None:
    """Put parameters and, per batch, MACs and the bytes that convolutions must move at least into the record."""
    cost = count(network, (3, record.img_size, record.img_size))
    record.params, record.macs = cost.params, cost.macs * record.batch_size
    moved = traffic(network, (record.batch_size, 3, record.img_size, record.img_size))
    record.bytes = moved * ITEM_SIZE[record.computed_in]


def _fill(record: Latency, timings: Timings, reference: Latency, control: Latency | None) -> None:
    """Put times and the ratio to the reference into the record."""
    samples, base = timings.samples[record.name], timings.samples[reference.name]
    note_times(record, timings, record.name)
    record.speedup = paired_ratio(base, samples)
    record.calls_per_sample, record.warmup_stable = timings.calls[record.name], timings.stable[record.name]
    if record is not reference and record is not control:
        noise = paired_ratio(base, timings.samples[control.name]) if control else None
        record.warning = noise_warning(record.speedup, noise)
