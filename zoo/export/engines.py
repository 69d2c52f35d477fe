"""What the engines have in common: their names, what each can do on this machine, and what each is given."""

from __future__ import annotations

import difflib
import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from zoo.export.cpu import has_bf16, has_fp16

ENGINES = ("eager", "compile", "onnxruntime", "openvino")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_PACKAGES = {
    "onnxruntime": (("onnx", "onnxscript", "onnxruntime"), "reparam-zoo[onnx]"),
    "openvino": (("openvino",), "reparam-zoo[openvino]"),
    "nncf": (("nncf",), "reparam-zoo[openvino]"),
}

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
        """The network captured once for ONNX Runtime and OpenVINO, with a free batch size."""
        return capture(self.network, self.example)


def capture(network: nn.Module, example: Tensor, *, dynamic_batch: bool = True) -> ExportedProgram:
    """`torch.export` of a network; the example's batch size is fixed unless `dynamic_batch`."""
    if not dynamic_batch:
        return torch.export.export(network, (example,))
    pair = example[:1].repeat(2, 1, 1, 1)  # a batch of one would be taken for a constant
    return torch.export.export(network, (pair,), dynamic_shapes=({0: Dim("batch", min=1, max=65536)},))


def check_name(kind: str, name: str, known: tuple[str, ...]) -> None:
    """Raise ValueError with near names unless `name` is known."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"unknown {kind} {name!r}: {hint}")


def missing_package(name: str) -> str | None:
    """What to install before `name` (onnxruntime, openvino, nncf) can be used; None if it is there."""
    packages, extra = _PACKAGES[name]
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    return f"{absent[0]} is not installed: install '{extra}'" if absent else None


def refusal(engine: str, precision: str, device: str = "cpu") -> str | None:
    """Why this engine cannot run at this precision on this machine, in one line; None if it can."""
    if engine in ("onnxruntime", "openvino"):
        if (reason := missing_package(engine)) is not None:
            return reason
        if device != "cpu":
            return f"{engine} runs on the CPU here: move the network with model.cpu()"
    elif precision == "int8":
        return f"{engine} has no int8 path: use openvino or onnxruntime"
    if engine == "compile" and _compiler() is None:
        return "torch.compile needs a C++ compiler: install g++ or clang++, or name one in CXX"
    if engine == "openvino" and precision == "int8":
        return missing_package("nncf")
    if engine == "onnxruntime" and precision in ("bf16", "fp16"):
        return (
            f"onnxruntime computes {precision} on a CPU by converting to fp32 and back: use openvino or eager"
        )
    if device == "cpu" and precision == "bf16" and not has_bf16():
        return "this CPU has neither AMX nor AVX512-BF16 (nor Arm's BF16): bf16 would be emulated and slower than fp32"
    if device == "cpu" and precision == "fp16" and not has_fp16():
        return "this CPU has no float16 arithmetic (AVX512-FP16, AMX-FP16 or Arm's FP16): use fp32"
    return None


def _compiler() -> str | None:
    """The C++ compiler that torch.compile would find."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "cl"]
    return next((name for name in names if shutil.which(name.split()[0])), None)
