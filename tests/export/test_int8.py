"""int8: what is quantised, and that the answer survives it on this CPU."""

import importlib.util
import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.support.export_networks import images
from zoo.export import compile_for, int8, mnn_engine, onnx_engine
from zoo.export.cpu import saturates_int8
from zoo.export.engines import Source, refusal
from zoo.export.openvino_engine import quantize_model


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "mnn"])
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


def test_mnn_is_told_the_scales_of_every_layer(source: Source) -> None:
    layers = {layer["weight"][0]["name"]: layer for layer in scales(source)}
    deployed = dict(source.network.named_parameters())
    assert layers.keys() == {name for name, weight in deployed.items() if weight.ndim > 1}
    assert layers.pop("head.weight")["weight"] == [{"name": "head.weight", "bits": 8}]  # computes in float32
    for name, layer in layers.items():
        assert layer["weight"][0]["scales"] == pytest.approx((deployed[name].flatten(1).abs().amax(1) / 127).tolist())
    (pixels,), (rectified,) = (layers["stem.0.weight"][side] for side in ("input", "output"))
    widest = float(source.calibration[0].abs().max())
    assert pixels["name"] == "input" and pixels["scales"] == pytest.approx([widest / 127], rel=0.01)
    assert rectified["name"] == "relu" and (rectified["clampMin"], rectified["clampMax"]) == (-127, 127)


def scales(source: Source) -> list[dict]:
    """What MNN's converter is told of the layers."""
    graph = source.onnx_graph
    told = mnn_engine.scales_of(graph, onnx_engine.quantize_graph(graph, source.calibration))
    return json.loads(told)["algo"][0]["quantParams"]["layer"]


def test_mnn_computes_in_int8_what_it_is_told_to() -> None:
    """What a rectified convolution answers are whole multiples of its scale; in float32 they are not."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()
    source, x = Source(network, images(1), (images(8, seed=5),)), images(8, seed=3)
    step = scales(source)[0]["output"][0]["scales"][0]
    levels, exact = (mnn_engine.mnn(source, precision)(x) / step for precision in ("int8", "fp32"))
    assert (levels - levels.round()).abs().max() < 1e-3 < 0.2 < (exact - exact.round()).abs().max()


@pytest.mark.parametrize("engine, package, extra", [("openvino", "nncf", "openvino"), ("mnn", "onnxruntime", "onnx")])
def test_int8_may_need_another_package(monkeypatch: pytest.MonkeyPatch, engine: str, package: str, extra: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    assert refusal(engine, "int8") == f"{package} is not installed: pip install {package} (our extra [{extra}])"
    assert refusal(engine, "fp32") is None
