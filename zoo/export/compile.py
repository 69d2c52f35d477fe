"""compile_for: a network as one fast callable, checked against PyTorch."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from zoo.export.engines import ENGINES, PRECISIONS, Run, Source, check_name, refusal
from zoo.export.onnx_engine import onnxruntime
from zoo.export.openvino_engine import openvino
from zoo.export.parity import Parity, ParityError, compare, tolerance
from zoo.export.torch_engines import compile_, eager
from zoo.reparam.deploy import deploy, is_deployed

BUILDERS = {"eager": eager, "compile": compile_, "onnxruntime": onnxruntime, "openvino": openvino}
MIN_ROUNDS = 5


@dataclass(frozen=True)
class Candidate:
    """One line of what `auto` tried: its median time and parity, or why it was left out."""

    engine: str
    precision: str
    milliseconds: float | None
    parity: Parity | None
    reason: str | None = None


@dataclass(frozen=True)
class Engine:
    """A deployed network in one engine: (N, C, H, W) float32 → float32, on a torch tensor.

    Channels and size are those of the example it was built with; the batch size is free, but an engine that
    compiles for a shape pauses at a new one. Not for concurrent calls.

    parity: how far its answers are from the float32 PyTorch network's.
    candidates: what `auto` measured, fastest first.
    """

    engine: str
    precision: str
    threads: int
    parity: Parity
    input_size: tuple[int, ...]
    run: Run
    candidates: tuple[Candidate, ...] = ()

    @property
    def name(self) -> str:
        """Engine and precision: `openvino-bf16`."""
        return f"{self.engine}-{self.precision}"

    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype != torch.float32 or tuple(images.shape[1:]) != self.input_size or not len(images):
            raise ValueError(
                f"{self.name} was built for float32 images (N, {', '.join(map(str, self.input_size))}), "
                f"not {str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
            )
        return self.run(images)

    def table(self) -> str:
        """The candidates, one line each."""
        lines = [f"{'engine':20} {'ms':>8}  parity"]
        for one in self.candidates:
            name = f"{one.engine}-{one.precision}"
            if one.parity is None or one.milliseconds is None:
                lines.append(f"{name:20} {'-':>8}  {one.reason}")
            else:
                p = one.parity
                figures = f"error {p.max_relative_error:.1e}, SQNR {p.sqnr_db:.1f} dB, argmax {p.argmax_agreement:.0%}"
                lines.append(f"{name:20} {one.milliseconds:8.2f}  {figures}")
        return "\n".join(lines)


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

    Args:
        model: Any network in eval mode. Blocks (ours and timm's) are deployed first, BatchNorms folded.
        engine: `eager`, `compile`, `onnxruntime`, `openvino`, or `auto`: the fastest of those installed, measured
            here on `example`. `auto` leaves `compile` out where ONNX Runtime or OpenVINO can be used: it takes
            minutes to build and was never faster.
        precision: `fp32`, `bf16`, `fp16`, `int8`, or `auto`: the fastest of `allow`.
        example: Images (N, C, H, W), float32, of the size and batch to be fast at. Default: one random image of
            the network's own input size.
        threads: CPU threads per call; default: PyTorch's current number.
        allow: The precisions that `precision="auto"` may use.
        calibration: Batches of normalised images for int8, some hundreds of images like those to be seen;
            "random" takes noise: good for timing, not for answers.
        min_sqnr_db: With `auto`, a candidate is left out if its outputs' signal to noise is below this.
        seconds: How long `auto` times its candidates, all together.

    Raises:
        ValueError: Unknown name; an engine that is not installed, or a precision that this machine or engine
            does not have; no calibration images for int8; a network in training mode.
        ParityError: An fp32 engine differs from PyTorch by more than rounding.
    """
    check_name("engine", engine, ("auto", *ENGINES))
    check_name("precision", precision, ("auto", *PRECISIONS))
    for name in allow:
        check_name("precision", name, PRECISIONS)
    example = _default_example(model) if example is None else example.detach()
    network = deployed_network(model, example)
    precisions = tuple(allow) if precision == "auto" else (precision,)
    batches = _calibration_batches(calibration, example) if "int8" in precisions else ()
    source = Source(network, example, batches, threads or torch.get_num_threads())

    if engine != "auto" and precision != "auto":
        if (reason := refusal(engine, precision, example.device.type)) is not None:
            raise ValueError(reason)
        return _build(source, engine, precision, _references(source))
    return _fastest(
        source, _engines_of_auto() if engine == "auto" else (engine,), precisions, min_sqnr_db, seconds
    )


def deployed_network(model: nn.Module, example: Tensor) -> nn.Module:
    """The deployed structure of any network: blocks of ours and of timm folded, then every BatchNorm.

    Raises:
        ValueError: The network is in training mode.
    """
    if is_deployed(model) and not model.training:
        model = reparameterize_model(model)  # timm's own blocks; it copies
    return deploy(model, example)


def _default_example(model: nn.Module) -> Tensor:
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if config is None:
        raise ValueError(f"{type(model).__name__} does not say its input size: pass example=")
    size = config["input_size"]
    return torch.randn(1, *size, generator=torch.Generator().manual_seed(0))


def _calibration_batches(calibration: Iterable[Tensor] | str | None, example: Tensor) -> tuple[Tensor, ...]:
    if calibration == "random":
        generator = torch.Generator().manual_seed(1)
        return tuple(torch.randn(example.shape, generator=generator) for _ in range(4))
    if calibration is None or isinstance(calibration, str):
        raise ValueError(
            'int8 needs calibration=: batches of normalised images (or "random", to time it only)'
        )
    batches = tuple(batch.detach().float().cpu() for batch in calibration)
    for batch in batches:
        if batch.shape[1:] != example.shape[1:]:
            raise ValueError(
                f"calibration images are {tuple(batch.shape[1:])}, the example {tuple(example.shape[1:])}"
            )
    if not batches:
        raise ValueError("calibration= holds no images")
    return batches


def _engines_of_auto() -> tuple[str, ...]:
    others = [name for name in ("onnxruntime", "openvino") if refusal(name, "fp32") is None]
    return ("eager", *others) if others else ("eager", "compile")


References = list[tuple[Tensor, Tensor]]


def _references(source: Source) -> References:
    """Images and what the network answers in float32: the example, noise, and some calibration batches."""
    noise = torch.randn(source.example.shape, generator=torch.Generator().manual_seed(2))
    batches = [source.example, noise.to(source.example.device), *source.calibration[:4]]
    with torch.inference_mode():
        pairs = [(images, source.network(images)) for images in batches]
    for _, answer in pairs:
        if not isinstance(answer, Tensor):
            raise ValueError(
                f"the network answers a {type(answer).__name__}: engines take networks with one output"
            )
    return [(images.clone(), answer.clone()) for images, answer in pairs]


def _build(source: Source, engine: str, precision: str, references: References) -> Engine:
    """One engine, checked."""
    run = BUILDERS[engine](source, precision)
    answers = [run(images) for images, _ in references]
    parity = compare(answers, [answer for _, answer in references])
    if precision == "fp32":
        images, answer = references[0]
        bound = tolerance(source.network, images[:2], answer[:2])
        if not parity.max_relative_error <= bound:
            raise ParityError(
                f"{engine} differs from PyTorch by {parity.max_relative_error:.1e} (relative; allowed {bound:.1e})"
            )
    return Engine(engine, precision, source.threads, parity, tuple(source.example.shape[1:]), run)


def _fastest(
    source: Source, engines: Sequence[str], precisions: Sequence[str], min_sqnr_db: float, seconds: float
) -> Engine:
    """Build all that can be built, time them in turns, take the one with the lowest median."""
    references = _references(source)
    built: list[Engine] = []
    left_out: list[Candidate] = []
    for engine, precision in itertools.product(engines, precisions):
        reason = refusal(engine, precision, source.example.device.type)
        if reason is None:
            try:
                one = _build(source, engine, precision, references)
            except (ValueError, RuntimeError) as error:  # an engine that cannot take this network
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
            else:
                if one.parity.sqnr_db >= min_sqnr_db:
                    built.append(one)
                    continue
                reason = f"output SQNR {one.parity.sqnr_db:.1f} dB is below min_sqnr_db={min_sqnr_db:g}"
        left_out.append(Candidate(engine, precision, None, None, reason))
    if not built:
        raise ValueError(
            "no engine can be used: " + "; ".join(f"{c.engine}-{c.precision}: {c.reason}" for c in left_out)
        )
    times = _race(built, source.example, seconds)
    order = sorted(range(len(built)), key=times.__getitem__)
    measured = [
        Candidate(built[i].engine, built[i].precision, 1e3 * times[i], built[i].parity) for i in order
    ]
    best = built[order[0]]
    return Engine(
        best.engine,
        best.precision,
        best.threads,
        best.parity,
        best.input_size,
        best.run,
        (*measured, *left_out),
    )


def _race(engines: Sequence[Engine], example: Tensor, seconds: float) -> list[float]:
    """Median seconds per call, calls taken in turns so that a slow spell of the machine hits all alike."""
    for engine in engines:
        engine(example)
    times: list[list[float]] = [[] for _ in engines]
    end = time.perf_counter() + seconds
    while len(times[0]) < MIN_ROUNDS or time.perf_counter() < end:
        for engine, samples in zip(engines, times, strict=True):
            start = time.perf_counter()
            engine(example)
            samples.append(time.perf_counter() - start)
    return [statistics.median(samples) for samples in times]
