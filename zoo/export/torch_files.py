"""PyTorch's own files: captured programs (`torch.export`) and TorchScript, which C++ and older phones load."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from zoo.export.engines import Run
from zoo.export.formats import Format, Order
from zoo.export.graphs import capture, unadvised


def _write_program(order: Order, path: Path) -> Counter[str]:
    program = capture(order.source.network, order.source.example, dynamic_batch=order.free_batch)
    torch.export.save(program, path, extra_files={"zoo": order.said})
    calls = (node.target for node in program.graph.nodes if node.op == "call_function")
    return Counter(getattr(call, "__name__", str(call)).partition(".")[0] for call in calls)


def _read_program(path: Path, precision: str) -> Run:
    network = torch.export.load(path).module()
    return torch.inference_mode()(lambda images: network(images))


def _write_script(order: Order, path: Path) -> Counter[str]:
    with unadvised():
        traced: Any = torch.jit.trace(order.source.network, order.source.example)
        torch.jit.save(traced, path, _extra_files={"zoo": order.said})
    kinds = (node.kind() for node in traced.inlined_graph.nodes())
    return Counter(kind.removeprefix("aten::") for kind in kinds if kind.startswith("aten::"))


def _read_script(path: Path, precision: str) -> Run:
    with unadvised():
        network = torch.jit.load(path)
    return torch.inference_mode()(lambda images: network(images))


PROGRAM = Format(".pt2", None, _write_program, _read_program, says=True)
SCRIPT = Format(".torchscript", None, _write_script, _read_script, says=True)
