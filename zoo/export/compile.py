"""compile_for: a network as one fast callable, checked against PyTorch."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.cores import check_crowd
from zoo.export.engines import ENGINES, PRECISIONS, Candidate, Engine, Source, check_name, refusal
from zoo.export.mnn_engine import mnn
from zoo.export.ncnn_engine import ncnn
from zoo.export.onnx_engine import onnxruntime
from zoo.export.openvino_engine import openvino
from zoo.export.parity import References, compare_engine, references
from zoo.export.torch_engines import compile_, eager
from zoo.network import example_input
from zoo.surgery.deploy import deploy

BUILDERS = {
    "eager": eager,
    "compile": compile_,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "ncnn": ncnn,
    "mnn": mnn,
}
AUTO = ("eager", "onnxruntime", "openvino", "ncnn", "mnn")
"""What `engine="auto"` chooses from; `compile` takes a minute to build, so it must be named."""
MIN_ROUNDS = 5


def compile_for(
    model: nn.Module,
    engine: str = "auto",
    precision: str = "fp32",
    example: Tensor | None = None,
    *,
    threads: int | None = None,
    allow: Sequence[str] = ("fp32", "bf16"),
    calibration: Iterable[Tensor] | Literal["random"] | None = None,
    min_sqnr_db: float = 10.0,
    seconds: float = 2.0,
) -> Engine:
    """One fast callable for a network, always from its deployed structure, checked against PyTorch.

    >>> fast = zoo.compile_for(model, precision="auto", example=images)
    >>> logits = fast(images)

    Args:
        model: Any network in eval mode. It is deployed first: every linear region becomes one convolution.
        engine: `eager`, `compile`, `onnxruntime`, `openvino`, `ncnn`, `mnn`, or `auto`: the fastest of those
            installed, but for `compile`, measured here on `example`.
        precision: `fp32`, `bf16`, `fp16`, `int8`, or `auto`: the fastest of `allow`.
        example: Images (N, C, H, W), float32, of the size and batch to be fast at. Default: one random image
            of the network's own input size.
        threads: CPU threads per call; default: PyTorch's current number.
        allow: The precisions that `precision="auto"` may use.
        calibration: Batches of normalised images for int8, some hundreds of images like those to be seen;
            "random" takes noise: good for timing, not for answers.
        min_sqnr_db: With `auto`, a candidate is left out if its outputs' signal to noise is below this.
        seconds: How long `auto` times its candidates, all together.

    Raises:
        ValueError: Unknown name; an example of another kind; no threads or far too many; an engine that is not
            installed, or a precision that this machine or engine does not have; no calibration images for int8; a
            network in training mode.
        ParityError: An fp32 engine differs from PyTorch by more than rounding.
    """
    check_name("engine", engine, ("auto", *ENGINES))
    for name in (precision, *allow):
        check_name("precision", name, ("auto", *PRECISIONS))
    example = example_input(model).float() if example is None else example.detach()
    if example.ndim != 4 or not len(example) or example.dtype != torch.float32:
        kind = str(example.dtype).removeprefix("torch.")
        raise ValueError(f"example must be float32 images (N, C, H, W), not {kind} {tuple(example.shape)}")
    if threads is not None and check_crowd("threads", threads) < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    engines = AUTO if engine == "auto" else (engine,)
    precisions = tuple(allow) if precision == "auto" else (precision,)
    fixed = "auto" not in (engine, precision)
    if fixed and (reason := refusal(engine, precision, example.device.type)) is not None:
        raise ValueError(reason)

    batches = calibration_batches(calibration, example) if "int8" in precisions else ()
    network = deployed_network(model, example)
    source = Source(network, example, batches, threads or torch.get_num_threads())
    pairs = references(network, [example, *batches[:4]])
    if fixed:
        return _build(source, engine, precision, pairs)
    built, left_out = _build_all(source, itertools.product(engines, precisions), pairs, min_sqnr_db)
    if not built:
        reasons = [f"{one.engine}-{one.precision}: {one.reason}" for one in left_out]
        raise ValueError("no engine can be used: " + "; ".join(reasons))
    return _fastest(built, left_out, example, seconds)


def deployed_network(model: nn.Module, example: Tensor) -> nn.Module:
    """Deploy any network, in float32: every linear region folded.

    Args:
        model: In eval mode; not touched.
        example: Images (N, C, H, W) that it runs on.

    Raises:
        ValueError: The network is in training mode.
        EquivalenceError: The deployed network does not compute the same.
    """
    return deploy(model, example[:2].to(next(model.parameters()).dtype)).float()


def calibration_batches(calibration: Iterable[Tensor] | str | None, example: Tensor) -> tuple[Tensor, ...]:
    """The caller's calibration images, checked; for "random", noise shaped like the example.

    Raises:
        ValueError: There are none, or of another size than the example's.
    """
    if calibration == "random":
        generator = torch.Generator().manual_seed(1)
        return tuple(torch.randn(example.shape, generator=generator) for _ in range(4))
    if calibration is None or isinstance(calibration, str):
        raise ValueError('int8 needs calibration=: batches of normalised images (or "random", to time it only)')
    batches = tuple(batch.detach().float().cpu() for batch in calibration)
    sizes = {tuple(batch.shape[1:]) for batch in batches}
    if sizes != {tuple(example.shape[1:])}:
        found = " and ".join(map(str, sizes)) or "absent"
        raise ValueError(f"calibration images are {found}, the example's {tuple(example.shape[1:])}")
    return batches


def _build(source: Source, engine: str, precision: str, pairs: References) -> Engine:
    """One engine, its answers compared with PyTorch's."""
    run = BUILDERS[engine](source, precision)
    parity = compare_engine(run, engine, precision, source.network, pairs)
    return Engine(engine, precision, source.threads, parity, tuple(source.example.shape[1:]), run)


def _build_all(
    source: Source, choices: Iterable[tuple[str, str]], pairs: References, min_sqnr_db: float
) -> tuple[list[Engine], list[Candidate]]:
    """The engines that can be had and answer well enough, and the others with the reason."""
    built: list[Engine] = []
    left_out: list[Candidate] = []
    for engine, precision in choices:
        reason = refusal(engine, precision, source.example.device.type)
        if reason is None:
            try:
                one = _build(source, engine, precision, pairs)
            except (ValueError, RuntimeError) as error:  # what engines raise on a network they cannot take
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            else:
                if one.parity.sqnr_db >= min_sqnr_db:
                    built.append(one)
                    continue
                reason = f"output SQNR {one.parity.sqnr_db:.1f} dB is below min_sqnr_db={min_sqnr_db:g}"
        left_out.append(Candidate(engine, precision, None, None, reason))
    return built, left_out


def _fastest(built: Sequence[Engine], left_out: Sequence[Candidate], example: Tensor, seconds: float) -> Engine:
    """The engine with the lowest median time on the example, with all candidates on record."""
    medians = _race(built, example, seconds)
    ranking = sorted(zip(medians, built, strict=True), key=lambda pair: pair[0])
    measured = [Candidate(one.engine, one.precision, 1e3 * median, one.parity) for median, one in ranking]
    return replace(ranking[0][1], candidates=(*measured, *left_out))


def _race(engines: Sequence[Engine], example: Tensor, seconds: float) -> list[float]:
    """Median seconds per call; calls are taken in turns, so that a slow spell of the machine hits all."""
    for engine in engines:
        engine(example)
    times: list[list[float]] = [[] for _ in engines]
    end = time.perf_counter() + seconds
    while len(times[0]) < MIN_ROUNDS or time.perf_counter() < end:
        for engine, samples in zip(engines, times, strict=True):
            start = time.perf_counter()
            engine(example).cpu()  # waits for a GPU, if the network lives on one
            samples.append(time.perf_counter() - start)
    return [statistics.median(samples) for samples in times]
