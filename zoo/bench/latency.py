"""Latency of networks: structures × engines × precisions, at batch sizes, resolutions and thread counts.

Everything that is compared runs in one interleaved group; a group is one model (or all, on request) at one batch size,
resolution and thread count. A combination that cannot run says why in its row, and the others go on.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.bench.memory import bounded_memory, is_out_of_memory, resident_peak, tensor_peak
from zoo.bench.results import CONTROL, Row, failure
from zoo.bench.statistics import noise_warning, paired_ratio, summarize
from zoo.bench.structures import build_structures
from zoo.bench.timing import CudaClock, HostClock, Plan, Timings, interleave
from zoo.bench.traffic import traffic
from zoo.cost import DOES_NOT_RUN, count
from zoo.export.compile import BUILDERS, Engine, calibration_batches, compile_for
from zoo.export.engines import Run, Source, refusal
from zoo.export.parity import compare
from zoo.export.torch_engines import torch_threads

AUTO_PRECISIONS = {"fp32": ("fp32",), "bf16": ("fp32", "bf16"), "int8": ("fp32", "bf16", "int8")}
"""The precision of an `auto` row → what its engine may choose from."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One network in one structure on one engine. `peer` is eager float32 in NCHW always: what a user has today."""

    model: str
    structure: str
    engine: str = "eager"
    precision: str = "fp32"

    @property
    def name(self) -> str:
        return f"{self.model} {self.structure} {self.engine} {self.precision}"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all contenders of a group share."""

    batch_size: int
    img_size: int
    threads: int
    device: str = "cpu"

    def example(self) -> Tensor:
        """Random images (N, 3, H, W) on the device."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch_size, 3, self.img_size, self.img_size, generator=generator)
        return images.to(self.device)


def contenders_of(
    model: str, structures: Sequence[str], engines: Sequence[str], precisions: Sequence[str]
) -> list[Contender]:
    """The rows of one model, its reference first: `peer` once; `auto` for the deployed structure, choosing among the
    precisions, with and without int8."""
    rows = [Contender(model=model, structure="peer")] if "peer" in structures else []
    others = [structure for structure in structures if structure != "peer"]
    fixed = [engine for engine in engines if engine != "auto"]
    for structure, engine, precision in itertools.product(others, fixed, precisions):
        rows.append(Contender(model=model, structure=structure, engine=engine, precision=precision))
    if "auto" in engines and "deployed" in structures:
        for name, allowed in AUTO_PRECISIONS.items():
            if set(allowed) <= set(precisions):
                rows.append(Contender(model=model, structure="deployed", engine="auto", precision=name))
    return rows


def settings_of(
    batch_sizes: Sequence[int], img_sizes: Sequence[int], threads: Sequence[int], device: str
) -> Iterator[Setting]:
    for number, size, batch in itertools.product(threads, img_sizes, batch_sizes):
        yield Setting(batch_size=batch, img_size=size, threads=number, device=device)


def measure_group(
    contenders: Sequence[Contender],
    setting: Setting,
    plan: Plan,
    *,
    peaks: dict[str, float],
    checkpoint: str | None = None,
    on_round: Callable[[int], None] = lambda done: None,
) -> list[Row]:
    """Time contenders against each other; one row each, and one for the control.

    Args:
        contenders: The first one that runs is the reference of every ratio.
        peaks: The machine's limits with this number of threads (`zoo.bench.peak.measure_peaks`).
        checkpoint: Weights for the networks (see `build_structures`).

    Raises:
        ValueError: Unknown model or structure.
    """
    rows: list[Row] = [{**dataclasses.asdict(c), **dataclasses.asdict(setting)} for c in contenders]
    try:
        with torch_threads(setting.threads), bounded_memory():
            sources = _sources(contenders, setting.example(), checkpoint)
            return _measure(rows, contenders, sources, setting, plan, peaks, on_round)
    except (RuntimeError, MemoryError) as error:  # the images alone may be too large
        if not is_out_of_memory(error):
            raise
        return [row | failure(error) for row in rows]


def _sources(contenders: Sequence[Contender], example: Tensor, checkpoint: str | None) -> dict[tuple[str, str], Source]:
    """Each model and structure once, as all engines receive it: they share one capture of its graph."""
    int8 = any(contender.precision == "int8" for contender in contenders)
    calibration = calibration_batches("random", example.cpu()) if int8 else ()
    sources: dict[tuple[str, str], Source] = {}
    for model in dict.fromkeys(c.model for c in contenders):
        structures = list(dict.fromkeys(c.structure for c in contenders if c.model == model))
        for structure, network in build_structures(model, structures, example, checkpoint=checkpoint).items():
            sources[model, structure] = Source(network, example, calibration, torch.get_num_threads())
    return sources


def _measure(
    rows: list[Row],
    contenders: Sequence[Contender],
    sources: dict[tuple[str, str], Source],
    setting: Setting,
    plan: Plan,
    peaks: dict[str, float],
    on_round: Callable[[int], None],
) -> list[Row]:
    calls: dict[str, Callable[[], object]] = {}
    for contender, row in zip(contenders, rows, strict=True):
        source = sources[contender.model, contender.structure]
        run = _attempt(row, contender, source)
        if run is not None:
            calls[contender.name] = _bind(run, source.example)
            row |= _costs(source.network, _computed_in(row), setting)
    if not calls:
        return rows
    reference = next(c for c in contenders if c.name in calls)
    source = sources[reference.model, reference.structure]
    control = _attempt({}, reference, dataclasses.replace(source, network=copy.deepcopy(source.network)))
    if control is not None:
        calls[CONTROL] = _bind(control, source.example)

    clock = CudaClock() if source.example.is_cuda else HostClock()
    timings = interleave(calls, plan, clock=clock, on_round=on_round)
    for contender, row in zip(contenders, rows, strict=True):
        if row["status"] == "ok":
            row |= _figures(timings, contender.name, reference.name, row, peaks)
    if control is not None:
        identity = {**dataclasses.asdict(reference), "structure": CONTROL, "status": "ok"}
        row = {**identity, **dataclasses.asdict(setting)}
        rows.append(row | _figures(timings, CONTROL, reference.name, row, peaks))
    return rows


def _bind(run: Run, example: Tensor) -> Callable[[], object]:
    return lambda: run(example)


def _attempt(row: Row, contender: Contender, source: Source) -> Run | None:
    """Build and call once; puts `status`, `error`, `parity_error` and peak memory into the row."""
    answers: list[Tensor] = []
    built: list[Run] = []

    def build_and_call() -> None:
        built.append(_build(contender, source))
        answers.append(built[0](source.example))

    try:
        if contender.structure == "peer" or contender.engine == "eager":
            build_and_call()
            row["peak_memory"], row["memory_kind"] = tensor_peak(lambda: built[0](source.example)), "tensors"
        else:
            row["peak_memory"], row["memory_kind"] = resident_peak(build_and_call), "resident"
        with torch.inference_mode():
            expected = source.network(source.example)
        row["parity_error"] = compare(answers, [expected]).max_relative_error
    except _engine_errors() as error:
        row |= failure(error)
        return None
    row["status"] = "ok"
    if isinstance(built[0], Engine):
        row["chosen"] = built[0].name
    return built[0]


def _build(contender: Contender, source: Source) -> Run:
    """The network on its engine. Only `auto` goes through `compile_for`, which deploys whatever it is given."""
    if contender.structure == "peer":
        return _eager_nchw(source.network)
    if contender.engine == "auto":
        allow = AUTO_PRECISIONS[contender.precision]
        return compile_for(source.network, "auto", "auto", source.example, allow=allow, calibration="random")
    if reason := refusal(contender.engine, contender.precision, source.example.device.type):
        raise ValueError(reason)
    return BUILDERS[contender.engine](source, contender.precision)


def _eager_nchw(network: nn.Module) -> Run:
    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(images)

    return run


def _engine_errors() -> tuple[type[BaseException], ...]:
    """What a network or engine raises for what it cannot do; ONNX Runtime's errors derive from Exception alone."""
    state = sys.modules.get("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [e for e in vars(state).values() if isinstance(e, type) and issubclass(e, Exception)] if state else []
    return (*DOES_NOT_RUN, MemoryError, *own)


ITEM_SIZE = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}


def _computed_in(row: Row) -> str:
    """The precision of a row: what `auto` has chosen, not what it might have."""
    return str(row.get("chosen", row["precision"])).rpartition("-")[2]


def _costs(network: nn.Module, precision: str, setting: Setting) -> Row:
    """Parameters and, per batch, MACs and the bytes that its convolutions must read and write at least."""
    cost = count(network, (3, setting.img_size, setting.img_size))
    moved = traffic(network, (setting.batch_size, 3, setting.img_size, setting.img_size))
    return {
        "params": cost.params,
        "macs": cost.macs * setting.batch_size,
        "bytes": moved * ITEM_SIZE[precision],
    }


def _figures(timings: Timings, name: str, reference: str, row: Row, peaks: dict[str, float]) -> Row:
    """Percentiles, rates and the ratio to the reference. Times in seconds."""
    samples = timings.samples[name]
    summary = summarize(samples)
    ratio = paired_ratio(timings.samples[reference], samples)
    figures: Row = {
        **dataclasses.asdict(summary),
        "calls_per_sample": timings.calls[name],
        "warmup_stable": timings.stable[name],
        "other_cpus": sum(timings.other_cpu[name]) / summary.n,
        "images_per_s": row["batch_size"] / summary.median,
        "speedup": dataclasses.asdict(ratio),
        "samples": [float(f"{s:.5g}") for s in samples],
    }
    if "macs" in row:
        gemm = peaks.get(f"gemm_{_computed_in(row)}")
        figures["macs_per_s"] = row["macs"] / summary.median
        figures["share_of_gemm_peak"] = figures["macs_per_s"] / gemm if gemm else None
        figures["share_of_bandwidth"] = row["bytes"] / summary.median / peaks["triad"] if "triad" in peaks else None
    if name != reference and name != CONTROL:
        control = timings.samples.get(CONTROL)
        figures["warning"] = noise_warning(
            ratio, paired_ratio(timings.samples[reference], control) if control else None
        )
    return figures
