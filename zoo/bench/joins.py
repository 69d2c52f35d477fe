"""Joining two maps, on each engine: the one-node graphs of two inputs that Concat vs Add is timed with."""

# pyright: reportAttributeAccessIssue=false
# ncnn and MNN are native modules without stubs.

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    import onnx

Operation = Literal["concat", "add"]
Call = Callable[[], object]


def eager(operation: Operation, axis: int, a: Tensor, b: Tensor, threads: int) -> Call:
    """torch's own kernels, on torch's current number of threads."""
    return torch.inference_mode()(partial(_function(operation, axis), a, b))


def compiled(operation: Operation, axis: int, a: Tensor, b: Tensor, threads: int) -> Call:
    """torch.compile, anew for each shape."""
    return partial(torch.compile(_function(operation, axis), dynamic=False), a, b)


def _function(operation: Operation, axis: int) -> Callable[[Tensor, Tensor], Tensor]:
    return torch.add if operation == "add" else lambda a, b: torch.cat((a, b), dim=axis)


def onnxruntime(operation: Operation, axis: int, a: Tensor, b: Tensor, threads: int) -> Call:
    """ONNX Runtime on the CPU; the result's memory is allocated at every call, as in a network."""
    from zoo.runtime.engines import onnx_session

    session = onnx_session(_graph(operation, axis, a).SerializeToString(), threads)
    inputs = {"a": a.numpy(), "b": b.numpy()}
    return lambda: session.run(None, inputs)


def _graph(operation: Operation, axis: int, like: Tensor) -> onnx.ModelProto:
    """The ONNX graph that joins its inputs `a` and `b`, two maps of one shape."""
    import onnx

    size = ",".join(map(str, like.shape))
    node = f"Concat<axis = {axis}>" if operation == "concat" else "Add"
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> {operation} (float[{size}] a, float[{size}] b) '
        f"=> (float[N,C,H,W] joined) {{ joined = {node}(a, b) }}"
    )


def openvino(operation: Operation, axis: int, a: Tensor, b: Tensor, threads: int) -> Call:
    """OpenVINO on the CPU, shapes fixed."""
    import openvino as ov
    from openvino import opset8 as ops

    from zoo.export.openvino_engine import settings_for
    from zoo.runtime.engines import openvino_core

    maps = [ops.parameter(list(x.shape), ov.Type.f32) for x in (a, b)]
    joined = ops.concat(maps, axis) if operation == "concat" else ops.add(*maps)
    # OpenVINO's own stubs give `Model` two unrelated types.
    model = ov.Model([joined.output(0)], maps)  # pyright: ignore[reportGeneralTypeIssues]
    request = openvino_core().compile_model(model, "CPU", settings_for("fp32", threads)).create_infer_request()
    inputs = {0: a.numpy(), 1: b.numpy()}
    return lambda: request.infer(inputs, share_inputs=True, share_outputs=True)


def ncnn(operation: Operation, axis: int, a: Tensor, b: Tensor, threads: int) -> Call:
    """ncnn on the CPU, of single images: it knows no batch, so its axes count from the channels."""
    import ncnn

    if len(a) > 1:
        raise ValueError("ncnn has no batch dimension: it joins the maps of one image")
    layer = f"Concat joined 2 1 a b joined 0={axis - 1}" if operation == "concat" else "BinaryOp joined 2 1 a b joined"
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.load_param_mem(f"7767517\n3 3\nInput a 0 1 a\nInput b 0 1 b\n{layer}\n")
    # A Mat of an array only looks at it, and keeps nothing alive.
    maps = {name: ncnn.Mat(values[0].numpy()).clone() for name, values in (("a", a), ("b", b))}

    def run() -> object:
        extractor = net.create_extractor()
        for name, values in maps.items():
            extractor.input(name, values)
        return extractor.extract("joined")

    return run


def mnn(operation: Operation, axis: int, a: Tensor, b: Tensor, threads: int) -> Call:
    """MNN on the CPU, shapes fixed; its inputs are in place, in its own order of memory."""
    from zoo.export.mnn_engine import write_mnn
    from zoo.runtime.phones import mnn_interpreter, mnn_session, mnn_tensor

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "join.mnn")
        write_mnn(_graph(operation, axis, a), file)
        interpreter = mnn_interpreter(file)
    ready = mnn_session(interpreter, threads, {"a": tuple(a.shape), "b": tuple(b.shape)})
    for name, values in (("a", a), ("b", b)):
        interpreter.getSessionInput(ready, name).copyFrom(mnn_tensor(values.numpy()))
    return lambda: interpreter.runSession(ready)


JOINS: dict[str, Callable[[Operation, int, Tensor, Tensor, int], Call]] = {
    "eager": eager,
    "compile": compiled,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "ncnn": ncnn,
    "mnn": mnn,
}
"""Engine → (operation, channel axis, a, b, threads) → a call that joins a and b."""
