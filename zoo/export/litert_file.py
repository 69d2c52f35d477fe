"""LiteRT files (once TensorFlow Lite), for Android and small devices."""

# pyright: reportMissingImports=false
# Its packages weigh more than torch, so they are not among those of development.

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from zoo.export.engines import Run, on_tensors
from zoo.export.formats import Format, Order
from zoo.export.graphs import quiet


def _write(order: Order, path: Path) -> Counter[str]:
    """Write a file; its input stays (N, C, H, W). Many of TRANSPOSE would say that its layers are not in this order."""
    import litert_torch

    with quiet("litert_torch"):
        litert_torch.convert(order.source.network, (order.source.example,)).export(str(path))
    return Counter(operation["op_name"] for operation in _interpreter(path)._get_ops_details())


def _read(path: Path, precision: str) -> Run:
    interpreter = _interpreter(path)
    interpreter.allocate_tensors()
    (entry,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(entry["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(output["index"])

    return on_tensors(run)


def _interpreter(path: Path):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path), num_threads=1)


FILE = Format(".tflite", "litert", _write, _read, batch="fixed")
