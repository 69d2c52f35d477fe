"""The engine `onnxruntime`, and its static int8."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.export.engines import Run, Source
from zoo.export.graphs import INPUT, OUTPUT, quiet

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
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors only: warnings go to stderr past Python
    runner = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (output,) = runner.run([OUTPUT], {INPUT: images.contiguous().numpy()})
        return torch.from_numpy(output)

    return run


def quantize_graph(graph: onnx.ModelProto, calibration: tuple[Tensor, ...]) -> onnx.ModelProto:
    """Static int8: weights per output channel, activations per tensor by their range over the calibration."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(calibration)

        def get_next(self) -> dict | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch.contiguous().numpy()}

    graph = copy.deepcopy(graph)  # quantize_static writes into it
    add_pre_process_metadata(graph)  # the exporter has folded constants already
    with quiet("root"), tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "int8.onnx")
        quantize_static(
            graph,
            file,
            Batches(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(file)
