"""PyTorch's own files: captured programs (`torch.export`) and TorchScript, which C++ and older phones load."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from zoo.export.engines import Run
from zoo.export.formats import Format, Order
from zoo.export.graphs import capture


def _write_program(order: Order, path: Path) -> Counter[str]:
    program = capture(order.source.network, order.source.example, dynamic_batch=order.free_batch)
    torch.export.save(program, path, extra_files={"zoo": order.said})
    calls = (node.target for node in program.graph.nodes if node.op == "call_function")
    return Counter(getattr(call, "__name__", str(call)).partition(".")[0] for call in calls)


def _read_program(path: Path, precision: str) -> Run:
    network = torch.export.load(path).module()
    return torch.inference_mode()(lambda images: network(images))


def _write_script(order: Order, path: Path) -> Counter[str]:
    with _unadvised():
        traced: Any = torch.jit.trace(order.source.network, order.source.example)
        torch.jit.save(traced, path, _extra_files={"zoo": order.said})
    kinds = (node.kind() for node in traced.inlined_graph.nodes())
    return Counter(kind.removeprefix("aten::") for kind in kinds if kind.startswith("aten::"))


def _read_script(path: Path, precision: str) -> Run:
    with _unadvised():
        network = torch.jit.load(path)
    return torch.inference_mode()(lambda images: network(images))


@contextlib.contextmanager
def _unadvised() -> Iterator[None]:
    """Keep back torch's advice against TorchScript: whoever asks for it has a reason."""
    with warnings.catch_warnings():
        for kind in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", kind)
        yield


PROGRAM = Format(".pt2", None, _write_program, _read_program, says=True)
SCRIPT = Format(".torchscript", None, _write_script, _read_script, says=True)
