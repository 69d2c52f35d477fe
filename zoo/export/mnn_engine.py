"""The engine `mnn`: a network converted from ONNX by MNN's own converter, also in int8.

int8 is made of three parts: ONNX Runtime's quantiser finds the ranges of activations, here they are written as scales,
and MNN's converter makes int8 layers of them. MNN has a quantiser of its own, which crashes on some networks.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.export.engines import Run, Source, on_tensors
from zoo.export.formats import Format, Order, Way
from zoo.export.graphs import convert_onnx
from zoo.export.int8 import MIXED, SPLIT
from zoo.export.onnx_engine import graph_of, mix, of_any_batch, quantize_graph, set_batch
from zoo.runtime.phones import mnn_runner

if TYPE_CHECKING:
    import onnx

# The module `_tools` is the converter. MNN's script `mnnconvert` calls it too, but first starts pip to install a
# logging client, and afterwards reports the conversion to a server. This child has no network where Linux lets a
# process give it up (CLONE_NEWUSER, CLONE_NEWNET), and is a process of its own because the converter ends its own
# on some graphs.
_CONVERT = """
import ctypes, sys
if sys.platform == "linux":
    ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)
import _tools
sys.exit(not _tools.mnnconvert(["MNNConvert", *sys.argv[1:]]))
"""
LAYERS = ("Conv", "Gemm")
TOP = 127
"""int8 goes from -127 to 127, around zero. With other zeros MNN 3.6 answers wrongly where a sum is rectified."""


def mnn(source: Source, precision: str) -> Run:
    """MNN on the CPU, prepared anew for every batch size met."""
    graph = source.onnx_graph
    scales = scales_of(graph, quantize_graph(graph, source.calibration)) if precision == "int8" else None
    return _run(graph, scales, source.threads)


def _run(graph: onnx.ModelProto, scales: str | None, threads: int) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.mnn")
        write_mnn(graph, file, scales)
        return on_tensors(mnn_runner(file, threads))


def write_mnn(graph: onnx.ModelProto, path: Path, scales: str | None = None) -> None:
    """Convert an ONNX graph to the file of MNN.

    Args:
        scales: Of `scales_of`, for int8.

    Raises:
        ValueError: The converter does not take the graph; with its last line.
    """
    options = ["-f", "ONNX", "--modelFile", "network.onnx", "--MNNModel", str(path.absolute()), "--bizCode", "zoo"]
    if scales:
        options += ["--compressionParamsFile", "scales.json"]
    command = [sys.executable, "-I", "-c", _CONVERT, *options]
    convert_onnx(graph, path, "MNN's converter", command, env={}, beside={"scales.json": scales} if scales else None)


def scales_of(graph: onnx.ModelProto, quantised: onnx.ModelProto, names: Collection[str] | None = None) -> str:
    """Write the scales of int8 layers as MNN's converter reads them: JSON of its `Compression.Pipeline`.

    Weights have 8 bits and a scale per output channel, on every CPU: MNN sums products in 32 bits. Linear layers have
    their weights in int8 and compute in float32: from some hundred outputs on MNN 3.6 answers wrongly or crashes else.

    Args:
        graph: In float32.
        quantised: The same by `quantize_graph`, for the ranges of its activations.
        names: Of the convolutions and linear layers that become int8; default: all.
    """
    import onnx

    weights = {one.name: onnx.numpy_helper.to_array(one) for one in graph.graph.initializer}
    ranges = dict(_ranges(quantised))
    rectified = {node.input[0]: node.output[0] for node in graph.graph.node if node.op_type in ("Relu", "Clip")}
    layers = []
    for node in graph.graph.node:
        if node.op_type not in LAYERS or node.input[1] not in weights or not (names is None or node.name in names):
            continue
        if node.op_type == "Gemm":  # becomes an operation of that name
            named = {"opName": f"{node.output[0]}__matmul_converted"}
            layers.append({**named, "weight": [{"name": node.input[1], "bits": 8}]})
        else:
            weight = weights[node.input[1]]
            largest = abs(weight.reshape(len(weight), -1)).max(1)
            filters = {"scales": (largest / TOP).clip(1e-6).tolist(), "clampMin": -TOP, "clampMax": TOP}
            # A rectifier that the converter fuses gives the layer's output its own name.
            outputs = [name for name in (node.output[0], rectified.get(node.output[0])) if name in ranges]
            layers += [
                {
                    "input": [{"name": node.input[0], **ranges[node.input[0]]}],
                    "weight": [{"name": node.input[1], **filters}],
                    "output": [{"name": output, **ranges[output]}],
                }
                for output in outputs
            ]
    return json.dumps({"version": "0", "algo": [{"type": "QUANTIZE", "quantParams": {"layer": layers}}]})


def _ranges(quantised: onnx.ModelProto) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name of an activation → its scale: of the largest magnitude that the quantised graph has levels for."""
    import onnx
    from onnxruntime.quantization.quant_utils import QUANT_INPUT_SUFFIX

    constants = {one.name: onnx.numpy_helper.to_array(one) for one in quantised.graph.initializer}
    for node in quantised.graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = (float(constants[name]) for name in node.input[1:])  # 0 to 255
            widest = scale * max(zero, 255 - zero)
            limits = {"scales": [widest / TOP], "clampMin": -TOP, "clampMax": TOP}
            yield node.input[0].removesuffix(QUANT_INPUT_SUFFIX), limits


def _static(order: Order, ranges: str = "MinMax") -> tuple[onnx.ModelProto, str]:
    graph = of_any_batch(order)
    return graph, scales_of(graph, quantize_graph(graph, order.source.calibration, ranges))


def _mix(order: Order) -> tuple[onnx.ModelProto, str]:
    """Let NNCF say which layers go back to float32; what is judged is MNN's file with these in float32."""
    graph = of_any_batch(order)
    quantised = quantize_graph(graph, order.source.calibration)

    def scales(judged: onnx.ModelProto) -> str:
        return scales_of(graph, quantised, _int8_layers(judged))

    return graph, scales(mix(order, lambda judged: _run(graph, scales(judged), order.source.threads)))


def _int8_layers(quantised: onnx.ModelProto) -> list[str]:
    """Names of the layers whose weights are int8."""
    nodes = quantised.graph.node
    dequantised = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    return [node.name for node in nodes if node.op_type in LAYERS and node.input[1] in dequantised]


WAYS: dict[str, Way] = {
    "minimum and maximum": _static,
    "percentiles": lambda order: _static(order, "Percentile"),
    SPLIT: lambda order: _static(order.split()),
    MIXED: _mix,
}


def _write(order: Order, path: Path) -> Counter[str]:
    if order.way:
        graph, scales = order.way(order)
        set_batch(graph, order)
        write_mnn(graph, path, scales)
    else:
        write_mnn(graph_of(order), path)
    return Counter()  # MNN's Python package does not tell a file's operations


FILE = Format(
    ".mnn",
    "mnn",
    _write,
    lambda path, precision: on_tensors(mnn_runner(path, 1)),
    precisions={"fp32": None, "int8": "onnxruntime"},
    ways=WAYS,
)
