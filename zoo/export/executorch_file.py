"""ExecuTorch programs, for phones and microcontrollers: convolutions and linear layers run in XNNPACK."""

# pyright: reportMissingImports=false
# Its packages weigh more than torch, so they are not among those of development.

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from zoo.export.engines import Run
from zoo.export.formats import Format, Order
from zoo.export.graphs import capture, quiet


def _write(order: Order, path: Path) -> Counter[str]:
    """Write a program. Operations beside `executorch_call_delegate` are those that XNNPACK does not take."""
    with quiet("executorch"):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        captured = capture(order.source.network, order.source.example, dynamic_batch=False)
        program = to_edge_transform_and_lower(captured, partitioner=[XnnpackPartitioner()])
        calls = [node.target for node in program.exported_program().graph.nodes if node.op == "call_function"]
        path.write_bytes(program.to_executorch().buffer)
    names = (getattr(call, "__name__", str(call)).partition(".")[0] for call in calls)
    return Counter(name for name in names if name != "getitem")


def _read(path: Path, precision: str) -> Run:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")

    def run(images: Tensor) -> Tensor:
        (answer,) = method.execute([images.contiguous()])
        return torch.clone(answer)  # the next call overwrites it

    return run


FILE = Format(".pte", "executorch", _write, _read, batch="fixed")
