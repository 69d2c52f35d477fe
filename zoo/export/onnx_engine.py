"""The engine `onnxruntime`, its static int8, and ONNX files."""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from zoo.export.cpu import saturates_int8
from zoo.export.engines import Run, Source, missing_package, on_tensors
from zoo.export.formats import Format, Order, Way
from zoo.export.graphs import INPUT, OUTPUT, capture, quiet, to_onnx
from zoo.export.int8 import MIXED, SPLIT, by_nncf, by_sensitivity
from zoo.runtime.engines import onnx_session

if TYPE_CHECKING:
    import onnx


def onnxruntime(source: Source, precision: str) -> Run:
    """An ONNX Runtime session on the CPU; one session serves every batch size."""
    graph = source.onnx_graph
    if precision == "int8":
        graph = quantize_graph(graph, source.calibration)
    return session(graph.SerializeToString(), source.threads)


def session(graph: bytes | str, threads: int) -> Run:
    """Run a serialised ONNX graph, or the file of that name. Input and output pass without a copy."""
    runner = onnx_session(graph, threads)
    return on_tensors(lambda images: np.asarray(runner.run([OUTPUT], {INPUT: images})[0]))


def quantize_graph(
    graph: onnx.ModelProto, calibration: Sequence[Tensor], ranges: str = "MinMax", per_channel: bool = True
) -> onnx.ModelProto:
    """Static int8: weights symmetric, activations per tensor by their range over the calibration.

    Weights have 7 bits if this CPU would saturate on 8.

    Args:
        ranges: A name of ONNX Runtime's `CalibrationMethod`: `MinMax`, `Percentile`, `Entropy`.
        per_channel: A scale for each output channel of a weight; else one for all of it.
    """
    import onnx
    from onnxruntime import quantization as ort
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    items = map(_as_item, calibration)

    class Batches(ort.CalibrationDataReader):
        def get_next(self) -> dict | None:
            return next(items, None)

    graph = copy.deepcopy(graph)  # quantize_static writes into it
    add_pre_process_metadata(graph)  # the exporter has folded constants already
    with quiet("root"), tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "int8.onnx")
        ort.quantize_static(
            graph,
            file,
            Batches(),
            quant_format=ort.QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
            reduce_range=saturates_int8(),
            calibrate_method=ort.CalibrationMethod[ranges],
        )
        return onnx.load(file)


def _static(order: Order, ranges: str = "MinMax") -> onnx.ModelProto:
    return quantize_graph(of_any_batch(order), order.source.calibration, ranges)


def _mix(order: Order) -> onnx.ModelProto:
    return mix(order, lambda graph: session(graph.SerializeToString(), torch.get_num_threads()))


def mix(order: Order, runner: Callable[[onnx.ModelProto], Run]) -> onnx.ModelProto:
    """Quantise, then return layers to floating point until the goal is reached; `runner` runs what is judged."""
    assert order.goal is not None
    items = [*map(_as_item, order.source.calibration)]
    return by_sensitivity(of_any_batch(order), items, [], order.goal, _as_item, runner)


def of_any_batch(order: Order) -> onnx.ModelProto:
    """The float32 graph with its batch size free: calibration batches may have any."""
    return to_onnx(order.source.program, order.opset)


def _as_item(images: Tensor) -> dict[str, np.ndarray]:
    return {INPUT: images.contiguous().numpy()}


WAYS: dict[str, Way] = {
    "minimum and maximum": _static,
    "percentiles": lambda order: _static(order, "Percentile"),
    "corrected biases": lambda order: by_nncf(of_any_batch(order), [*map(_as_item, order.source.calibration)]),
    SPLIT: lambda order: _static(order.split()),
    MIXED: _mix,
}


def graph_of(order: Order) -> onnx.ModelProto:
    """The float32 ONNX graph of a network that is to be written, its batch size free or the example's."""
    source = order.source
    return to_onnx(capture(source.network, source.example, dynamic_batch=order.free_batch), order.opset)


def set_batch(graph: onnx.ModelProto, order: Order) -> None:
    """Fix a free batch size, unless the order leaves it free."""
    if not order.free_batch:
        for value in (*graph.graph.input, *graph.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = len(order.source.example)


def _write(order: Order, path: Path) -> Counter[str]:
    if order.way:
        set_batch(graph := order.way(order), order)
    else:
        graph = graph_of(order)
    graph.metadata_props.add(key="zoo", value=order.said)
    path.write_bytes(graph.SerializeToString())
    return Counter(node.op_type for node in graph.graph.node if node.op_type != "Constant")


FILE = Format(
    suffix=".onnx",
    package="onnx",
    write=_write,
    read=lambda path, precision: session(str(path), 1),
    unreadable=lambda: missing_package("onnxruntime"),
    precisions={"fp32": None, "int8": "onnxruntime"},
    ways=WAYS,
    says=True,
)
