"""int8: what is quantised, and that the answer survives it on this CPU."""

import importlib.util

import numpy as np
import onnx
import pytest
from torch import nn

from tests.support.export_networks import images
from zoo.export import compile_for, int8, onnx_engine
from zoo.export.cpu import saturates_int8
from zoo.export.engines import Source, refusal
from zoo.export.openvino_engine import quantize_model


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_int8_keeps_the_signal_well_above_the_rounding(model: nn.Module, name: str) -> None:
    calibration = [images(8, seed=s) for s in range(4)]
    engine = compile_for(model, name, "int8", images(4), calibration=calibration, threads=1)
    # Eight bits give a layer 35–45 dB on normal data; four layers in a row lose some of it, and fp32 has > 100.
    assert 20 < engine.parity.sqnr_db < 60
    assert engine.parity.num_images == 4 + 4 * 8 + 4


@pytest.mark.parametrize(
    "flags, saturates",
    [
        ({"ssse3", "avx2"}, True),
        ({"ssse3", "avx2", "avx512f"}, True),
        ({"ssse3", "avx2", "avx_vnni"}, False),
        ({"ssse3", "avx2", "avx512_vnni"}, False),
        ({"asimd", "asimddp"}, False),
        (set(), False),
    ],
)
def test_eight_bits_saturate_on_x86_without_vnni(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], saturates: bool
) -> None:
    monkeypatch.setattr("zoo.export.cpu.cpu_flags", lambda: frozenset(flags))
    assert saturates_int8() == saturates


@pytest.mark.parametrize("saturates, in_onnx, in_openvino", [(True, 64, [64] * 3), (False, 127, [64, 127, 127])])
def test_weights_have_seven_bits_where_eight_would_saturate(
    monkeypatch: pytest.MonkeyPatch, source: Source, saturates: bool, in_onnx: int, in_openvino: list[int]
) -> None:
    for module in (onnx_engine, int8):
        monkeypatch.setattr(module, "saturates_int8", lambda: saturates)
    graph = onnx_engine.quantize_graph(source.onnx_graph, source.calibration).graph
    stored = [onnx.numpy_helper.to_array(i) for i in graph.initializer if i.data_type == onnx.TensorProto.INT8]
    assert {largest(weight) for weight in stored if weight.ndim > 1} == {in_onnx}
    operations = quantize_model(source.openvino_model, source.calibration).get_ops()
    stored = [op.data for op in operations if op.get_type_name() == "Constant" and op.data.dtype == np.int8]
    assert sorted(map(largest, stored)) == pytest.approx(in_openvino, abs=1)


def largest(weight: np.ndarray) -> int:
    return int(abs(weight.astype(int)).max())


def test_int8_leaves_depthwise_convolutions_and_gates_in_float(source: Source) -> None:
    quantised = quantize_model(source.openvino_model, source.calibration)
    fed = {
        op.get_type_name(): [value.get_source_output().get_node().get_type_name() for value in op.inputs()][:1]
        for op in quantised.get_ops()
        if op.get_type_name() in ("GroupConvolution", "MatMul")
    }
    assert fed == {"GroupConvolution": ["Relu"], "MatMul": ["FakeQuantize"]}
    convolutions = [op for op in quantised.get_ops() if op.get_type_name() == "Convolution"]
    inputs = [op.input_value(0).get_node().get_type_name() for op in convolutions]
    assert sorted(inputs) == ["FakeQuantize", "FakeQuantize", "ReduceMean"]


def test_int8_on_openvino_needs_nncf(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else find(name))
    assert refusal("openvino", "int8") == "nncf is not installed: pip install nncf (our extra [openvino])"
    assert refusal("openvino", "fp32") is None
