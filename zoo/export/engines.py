"""The engines' common ground: their names, what each can do on this machine, and what each is given."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from zoo.compare import Agreement
from zoo.export.cpu import has_bf16, has_fp16
from zoo.export.graphs import capture, read_openvino, to_onnx, to_openvino
from zoo.nearest import did_you_mean
from zoo.results.table import Column, Table

if TYPE_CHECKING:
    import onnx
    import openvino as ov

ENGINES = ("eager", "compile", "onnxruntime", "openvino", "ncnn", "mnn")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_ONNX = ("onnx", "onnxscript")
PACKAGES = {
    "onnx": ("onnx", _ONNX),
    "onnxruntime": ("onnx", (*_ONNX, "onnxruntime")),
    "openvino": ("openvino", ("openvino",)),
    "nncf": ("openvino", ("nncf",)),
    "ncnn": ("ncnn", (*_ONNX, "ncnn", "pnnx")),
    "mnn": ("mnn", (*_ONNX, "MNN")),
    "litert": ("litert", ("litert_torch", "ai_edge_litert")),
    "executorch": ("executorch", ("executorch",)),
    "coreml": ("coreml", ("coremltools",)),
}
"""What is used → our extra that has it, and the packages it needs."""

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Source:
    """A deployed network as every engine receives it.

    Args:
        network: Deployed structure, eval mode, float32.
        example: Images (N, C, H, W), float32: the shape the engines are tuned for.
        calibration: Batches of images that int8 takes its ranges from.
        threads: CPU threads of one inference.
    """

    network: nn.Module
    example: Tensor
    calibration: tuple[Tensor, ...] = ()
    threads: int = 1

    @cached_property
    def program(self) -> ExportedProgram:
        """The network captured once for all engines, with a free batch size."""
        return capture(self.network, self.example)

    @cached_property
    def onnx_graph(self) -> onnx.ModelProto:
        """As an ONNX graph."""
        return to_onnx(self.program)

    @cached_property
    def openvino_model(self) -> ov.Model:
        """As an OpenVINO model: by way of ONNX where that is installed, which takes a tenth of the time."""
        if missing_package("onnx") is None:
            return read_openvino(self.onnx_graph)
        return to_openvino(self.program)


@dataclass(frozen=True)
class Candidate:
    """One line of what `auto` tried: its median time and parity, or why it was left out."""

    engine: str
    precision: str
    milliseconds: float | None
    parity: Agreement | None
    reason: str | None = None


@dataclass(frozen=True)
class Engine:
    """A deployed network in one engine: images (N, C, H, W) → its output, float32 torch tensors both.

    Channels and size are those of the example it was built with; the batch size is free, but an engine that
    compiles for a shape pauses at a new one. Not for concurrent calls.

    parity: how far its answers are from the float32 PyTorch network's.
    candidates: what `auto` measured, fastest first, and what it left out.
    """

    engine: str
    precision: str
    threads: int
    parity: Agreement
    input_size: tuple[int, ...]
    run: Run
    candidates: tuple[Candidate, ...] = ()

    @property
    def name(self) -> str:
        """Engine and precision: `openvino-bf16`."""
        return f"{self.engine}-{self.precision}"

    def __call__(self, images: Tensor) -> Tensor:
        images = images.detach()
        if images.dtype != torch.float32 or tuple(images.shape[1:]) != self.input_size or not len(images):
            raise ValueError(
                f"{self.name} was built for float32 images (N, {', '.join(map(str, self.input_size))}), "
                f"not {str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
            )
        return self.run(images)

    def table(self) -> str:
        """The candidates, one line each."""
        columns = [
            Column("engine", lambda one: f"{one.engine}-{one.precision}"),
            Column("ms", lambda one: one.milliseconds, "{:.2f}".format),
            Column("parity", lambda one: one.reason if one.parity is None else str(one.parity)),
        ]
        return Table(columns, self.candidates).text()


def on_tensors(run: Callable[[np.ndarray], np.ndarray]) -> Run:
    """Let what computes on numpy arrays take tensors, in any memory layout, and give tensors."""
    return lambda images: torch.from_numpy(run(images.contiguous().numpy()))


def check_name(kind: str, name: str, known: tuple[str, ...]) -> None:
    """Raise ValueError with near names unless `name` is known."""
    if name not in known:
        near = did_you_mean(name, known, f"known: {', '.join(known)}")
        raise ValueError(f"unknown {kind} {name!r}: {near}")


def missing_package(name: str) -> str | None:
    """Say what to install before `name` (a key of `PACKAGES`) can be used; None if it is there."""
    extra, needed = PACKAGES[name]
    absent = [package for package in needed if importlib.util.find_spec(package) is None]
    return f"{absent[0]} is not installed: pip install {' '.join(absent)} (our extra [{extra}])" if absent else None


def refusal(engine: str, precision: str, device: str = "cpu") -> str | None:
    """Say in one line why this engine cannot run at this precision on this machine; None if it can."""
    if engine in PACKAGES:
        if (reason := missing_package(engine)) is not None:
            return reason
        if device != "cpu":
            return f"{engine} runs on the CPU here: move the network with model.cpu()"
    if precision == "int8" and engine not in ("onnxruntime", "openvino", "mnn"):
        return f"{engine} has no int8 path: use openvino, onnxruntime or mnn"
    if engine == "mnn" and precision == "int8":
        return missing_package("onnxruntime")  # takes the ranges
    if engine in ("ncnn", "mnn") and precision != "fp32":
        return f"{engine} computes in fp32 here: use openvino or eager for {precision}"
    if engine == "compile" and _compiler() is None:
        return "torch.compile needs a C++ compiler: install g++ or clang++, or name one in CXX"
    if engine == "openvino" and precision == "int8":
        return missing_package("nncf")
    if engine == "onnxruntime" and precision in ("bf16", "fp16"):
        return f"onnxruntime computes {precision} on a CPU by converting to fp32 and back: use openvino or eager"
    if device == "cpu" and precision == "bf16" and not has_bf16():
        return "this CPU has no bf16 arithmetic (AMX, AVX512-BF16 or Arm's BF16): use fp32"
    if device == "cpu" and precision == "fp16" and not has_fp16():
        return "this CPU has no float16 arithmetic (AVX512-FP16, AMX-FP16 or Arm's FP16): use fp32"
    return None


def _compiler() -> str | None:
    """The C++ compiler that torch.compile would find."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "cl"]
    return next((name for name in names if shutil.which(name.split()[0])), None)
