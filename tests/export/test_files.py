"""Files of every format: what is in them, and that they answer as PyTorch does."""

import copy
import json
from pathlib import Path

import pytest
import torch

from tests.support.export_networks import images
from zoo.export import ParityError, export_file, files, onnx_engine
from zoo.export.onnx_engine import session
from zoo.export.openvino_engine import compiled
from zoo.network import declare
from zoo.runtime.engines import openvino_core

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def both(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, files.ExportedFile]:
    folder = tmp_path_factory.mktemp("files")
    return {
        structure: export_file(model, folder / f"{structure}.onnx", images(1), structure=structure, dynamic_batch=True)
        for structure in ("deployed", "train")
    }


def test_both_structures_answer_alike_in_onnx_runtime_at_any_batch_size(
    model: torch.nn.Module, both: dict[str, files.ExportedFile]
) -> None:
    runs = {structure: session(file.path, 1) for structure, file in both.items()}
    for number in (1, 3):
        x = images(number, seed=7)
        deployed, train = runs["deployed"](x), runs["train"](x)
        torch.testing.assert_close(deployed, train, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(deployed, model(x).detach(), rtol=1e-4, atol=1e-5)


def test_the_deployed_graph_has_one_convolution_a_block_and_no_batchnorm(
    both: dict[str, files.ExportedFile],
) -> None:
    deployed, train = both["deployed"].nodes, both["train"].nodes
    # No sum is left: the residual x + bn(conv(x)) is linear in x, so it is one convolution too.
    assert deployed["Conv"] == 4 and "BatchNormalization" not in deployed and "Add" not in deployed
    # Three blocks have 2 + 3 + 3 branches: six convolutions, two identities, and the gate's convolution.
    assert train["Conv"] == 7 and train["BatchNormalization"] == 2 and train["Add"] == 1 + 1 + 2 + 2


def test_the_report_says_what_was_written(both: dict[str, files.ExportedFile]) -> None:
    file = both["deployed"]
    assert file.input_shape == (None, 3, 32, 32) and file.num_bytes == Path(file.path).stat().st_size
    assert file.parity is not None and file.parity.max_relative_error < 1e-5
    graph = onnx.load(file.path).graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["input", "output"]


def test_a_fixed_batch_size_is_fixed(model: torch.nn.Module, tmp_path: Path) -> None:
    file = export_file(model, tmp_path / "net.onnx", images(2), opset=20)
    assert file.input_shape == (2, 3, 32, 32)
    written = onnx.load(file.path)
    assert [d.dim_value for d in written.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 32, 32]
    assert written.opset_import[0].version == 20


@pytest.mark.parametrize("name", ["net.onnx", "net.xml"])
def test_a_file_says_how_its_images_are_prepared(model: torch.nn.Module, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".xml":
        pytest.importorskip("openvino")
    model = copy.deepcopy(model)
    declare(model, mean=(0.1, 0.2, 0.3), crop_pct=0.75, class_names=("cat", "dog"))
    export_file(model, path, images(1), format="onnx" if path.suffix == ".onnx" else "openvino")
    if path.suffix == ".onnx":
        said = next(entry.value for entry in onnx.load(path).metadata_props if entry.key == "zoo")
    else:
        said = openvino_core().read_model(path).get_rt_info("zoo").astype(str)
    wanted = {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "crop_pct": 0.75, "class_names": ["cat", "dog"]}
    assert json.loads(said).items() >= wanted.items()


@pytest.mark.parametrize("precision, low, high", [("fp32", 100, 200), ("fp16", 50, 90), ("int8", 20, 60)])
def test_openvino_files_hold_the_network_at_each_precision(
    model: torch.nn.Module, tmp_path: Path, precision: str, low: float, high: float
) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "net.xml"
    file = export_file(
        model,
        path,
        images(2),
        format="openvino",
        precision=precision,
        dynamic_batch=True,
        calibration=[images(8, seed=s) for s in range(4)],
    )
    assert file.parity is not None and low < file.parity.sqnr_db < high
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    run = compiled(openvino_core().read_model(path), "fp32", 1)
    x = images(3, seed=9)
    error = (run(x) - model(x).detach()).norm() / model(x).norm()
    assert error < 10 ** (-low / 20)
    if precision == "fp16":
        assert path.with_suffix(".bin").stat().st_size < 0.7 * 4 * sum(p.numel() for p in model.parameters())


def test_an_int8_onnx_file_holds_quantised_weights_per_channel(model: torch.nn.Module, tmp_path: Path) -> None:
    file = export_file(
        model, tmp_path / "net.onnx", images(2), precision="int8", calibration=[images(8, seed=s) for s in range(4)]
    )
    assert file.parity is not None and 20 < file.parity.sqnr_db < 60
    graph = onnx.load(file.path).graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    weights = [i for i in graph.initializer if i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 4]
    scales = {i.name: onnx.numpy_helper.to_array(i).size for i in graph.initializer if i.name.endswith("_scale")}
    assert len(weights) == 4 and list(scales.values()).count(8) >= 4


def test_a_file_that_answers_otherwise_leaves_the_old_one_in_place(
    model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(onnx_engine, "session", lambda file, threads: lambda x: model(x).detach() + 1)
    with pytest.raises(ParityError, match="the onnx file differs from PyTorch"):
        export_file(model, path, images(1))
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("net.onnx", {"format": "onxx"}, "unknown format 'onxx': did you mean onnx"),
        ("net.onnx", {"structure": "trian"}, "unknown structure 'trian': did you mean train"),
        ("net.onnx", {"precision": "bf16"}, "unknown precision of onnx 'bf16'"),
        ("net.pt", {}, "net.pt: the name of an onnx file ends in .onnx"),
        ("net.xml", {"format": "openvino", "opset": 18}, "opset is a setting of ONNX files"),
        ("net.onnx", {"structure": "train", "precision": "int8"}, "int8 is made from the deployed structure"),
        ("net.onnx", {"precision": "int8"}, "int8 needs calibration="),
    ],
)
def test_mistakes_are_named(model: torch.nn.Module, tmp_path: Path, name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_file(model, tmp_path / name, images(1), **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [3, 99])
def test_an_operator_set_that_cannot_be_written_is_refused(model, tmp_path, caplog, opset):
    with pytest.raises(ValueError, match=f"operator set {opset} cannot be written"):
        export_file(model, tmp_path / "net.onnx", images(1), opset=opset)
    assert not list(tmp_path.iterdir())
    assert "Traceback" not in caplog.text
