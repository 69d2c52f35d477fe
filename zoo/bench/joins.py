"""Joining two maps, on each engine: the one-node graphs of two inputs that Concat vs Add is timed with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Operation = Literal["concat", "add"]
Call = Callable[[], object]


def eager(operation: Operation, axis: int, a: Tensor, b: Tensor, threads: int) -> Call:
    """torch's own kernels, on torch's current number of threads."""
    function = _function(operation, axis)

    def run() -> Tensor:
        with torch.inference_mode():
            return function(a, b)

    return run


def compiled(operation: Operation, axis: int, a: Tensor, b: Tensor, threads: int) -> Call:
    """torch.compile, anew for each shape."""
    function = torch.compile(_function(operation, axis), dynamic=False)
    return lambda: function(a, b)


def _function(operation: Operation, axis: int) -> Callable[[Tensor, Tensor], Tensor]:
    return torch.add if operation == "add" else lambda a, b: torch.cat((a, b), dim=axis)


def onnxruntime(operation: Operation, axis: int, a: Tensor, b: Tensor, threads: int) -> Call:
    """ONNX Runtime on the CPU; the result's memory is allocated at every call, as in a network."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    if operation == "concat":
        node = helper.make_node("Concat", ["a", "b"], ["joined"], axis=axis)
    else:
        node = helper.make_node("Add", ["a", "b"], ["joined"])
    shapes = {"a": list(a.shape), "b": list(b.shape), "joined": [None] * 4}
    a_info, b_info, joined = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
    )
    graph = helper.make_graph([node], operation, [a_info, b_info], [joined])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = {"a": a.numpy(), "b": b.numpy()}
    return lambda: session.run(None, inputs)


def openvino(operation: Operation, axis: int, a: Tensor, b: Tensor, threads: int) -> Call:
    """OpenVINO on the CPU, shapes fixed."""
    import openvino as ov
    from openvino import opset8 as ops

    from zoo.export.openvino_engine import core

    maps = [ops.parameter(list(x.shape), ov.Type.f32) for x in (a, b)]
    joined = ops.concat(maps, axis) if operation == "concat" else ops.add(*maps)
    # OpenVINO's own stubs give `Model` two unrelated types.
    model = ov.Model([joined.output(0)], maps)  # pyright: ignore[reportGeneralTypeIssues]
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core().compile_model(model, "CPU", {**config, "ENABLE_CPU_PINNING": False}).create_infer_request()
    inputs = {0: a.numpy(), 1: b.numpy()}
    return lambda: request.infer(inputs, share_inputs=True, share_outputs=True)


JOINS: dict[str, Callable[[Operation, int, Tensor, Tensor, int], Call]] = {
    "eager": eager,
    "compile": compiled,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
"""Engine → (operation, channel axis, a, b, threads) → a call that joins a and b."""
