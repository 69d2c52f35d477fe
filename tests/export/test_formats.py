"""Every kind of file: it answers as PyTorch does, says what the network says, and refuses what it does not have."""

import copy
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import msgspec
import onnx
import pytest
import torch

from tests.support.export_networks import images, small_network
from zoo.export import export_file, mnn_engine
from zoo.export.config import Kind
from zoo.export.engines import missing_package
from zoo.export.files import FORMATS, check_request
from zoo.network import declare
from zoo.runtime.engines import openvino_core
from zoo.settings import ModelFile

HERE = [pytest.param(name) for name in FORMATS if name not in ("litert", "executorch")]
"""Formats that the tests' own packages write. The two others have packages of their own that weigh more than torch."""
ELSEWHERE = [
    pytest.param(name, marks=pytest.mark.skipif(missing_package(name) is not None, reason=str(missing_package(name))))
    for name in ("litert", "executorch")
]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    network = copy.deepcopy(small_network())
    declare(network, mean=(0.1, 0.2, 0.3), class_names=("cat", "dog"))
    return network


def said_by(path: Path) -> str:
    """What a file says of its network: JSON."""
    if path.suffix == ".onnx":
        return {entry.key: entry.value for entry in onnx.load(path).metadata_props}["zoo"]
    if path.suffix == ".xml":
        return openvino_core().read_model(path).get_rt_info("zoo").astype(str)
    if path.suffix == ".pt2":
        torch.export.load(path, extra_files=(said := {"zoo": ""}))
        return said["zoo"]
    if path.suffix == ".torchscript":
        torch.jit.load(path, _extra_files=(said := {"zoo": ""}))
        return said["zoo"]
    if path.suffix == ".mlpackage":
        import coremltools

        return coremltools.models.MLModel(str(path), skip_model_load=True).user_defined_metadata["zoo"]
    return path.with_suffix(".json").read_text()


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated")
@pytest.mark.parametrize("name", [*HERE, *ELSEWHERE])
def test_a_file_answers_as_pytorch_does_and_says_what_the_network_says(
    model: torch.nn.Module, tmp_path: Path, name: str
) -> None:
    path = tmp_path / f"net{FORMATS[name].suffix}"
    file = export_file(model, path, images(1), format=name)
    if file.parity is None:
        assert name == "coreml" and sys.platform != "darwin" and "Apple" in str(file.unchecked)
    else:
        assert file.parity.max_relative_error < 1e-5 and file.parity.num_images == 2
    assert file.input_shape == (1, 3, 32, 32) and file.format == name
    said = json.loads(said_by(path))
    assert said["input_size"] == [3, 32, 32] and said["mean"] == [0.1, 0.2, 0.3]
    assert said["class_names"] == ["cat", "dog"]
    made = [part for part in tmp_path.rglob("*") if part.is_file()]
    assert file.num_bytes == sum(part.stat().st_size for part in made)
    assert all(not part.name.startswith(".tmp") for part in tmp_path.iterdir())


FREE = [name for name, kind in FORMATS.items() if kind.batch == "free"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FREE)
def test_a_free_batch_size_is_tried_with_another_one(model: torch.nn.Module, tmp_path: Path, name: str) -> None:
    path = tmp_path / f"net{FORMATS[name].suffix}"
    file = export_file(model, path, images(2), format=name, dynamic_batch=True)
    assert file.input_shape[0] is None and file.parity is not None and file.parity.num_images == 2 + 3 + 2
    answer = FORMATS[name].read(path, "fp32")(images(5, seed=3))
    torch.testing.assert_close(answer, model(images(5, seed=3)).detach(), rtol=1e-4, atol=1e-5)


def test_the_train_structure_is_written_too(model: torch.nn.Module, tmp_path: Path) -> None:
    deployed = export_file(model, tmp_path / "net.pt2", images(1), format="torch-export")
    train = export_file(model, tmp_path / "train.pt2", images(1), format="torch-export", structure="train")
    assert (deployed.nodes["conv2d"], train.nodes["conv2d"]) == (4, 7)
    assert "batch_norm" not in deployed.nodes and train.nodes["batch_norm"] == 8


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("net.ncnn.param", {"format": "ncnn", "batch_size": 2}, "ncnn has no batch dimension"),
        ("net.ncnn.param", {"format": "ncnn", "batch_size": None}, "ncnn has no batch dimension"),
        ("net.param", {"format": "ncnn"}, "ends in .ncnn.param"),
        ("net.mlpackage", {"format": "coreml", "batch_size": None}, "coreml files take a fixed number of images"),
        ("net.ncnn.param", {"format": "ncnn", "precision": "int8"}, "ncnn files are not written in int8: onnx, "),
        ("net.mnn", {"format": "mnn", "precision": "fp16"}, "mnn files are not written in fp16: openvino"),
    ],
)
def test_what_a_format_does_not_have_is_refused(name: str, options: dict, message: str) -> None:
    request = {"structure": "deployed", "precision": "fp32", "opset": None, "batch_size": 1, **options}
    with pytest.raises(ValueError, match=message):
        check_request(Path(name), **request)


@pytest.mark.parametrize("name", [name for name, kind in FORMATS.items() if kind.package])
def test_a_missing_package_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"is not installed: pip install .*\(our extra \[{name}\]\)$"):
        check_request(Path(f"net{FORMATS[name].suffix}"), name, "deployed", "fp32", None, 1)


def test_the_command_line_knows_the_same_kinds_by_the_same_endings() -> None:
    assert get_args(Kind) == tuple(FORMATS)
    for kind in FORMATS.values():
        assert msgspec.convert(f"net{kind.suffix}", ModelFile)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert("net.pth", ModelFile)


def test_mnns_converter_runs_without_the_package_that_calls_home() -> None:
    command = [sys.executable, "-I", "-X", "importtime", "-c", mnn_engine._CONVERT, "--version"]
    child = subprocess.run(command, env={}, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in child.stderr.splitlines() if "|" in line}
    assert "_tools" in imported
    assert not {name for name in imported if name.split(".")[0] in ("MNN", "aliyun", "urllib", "socket", "subprocess")}


def test_a_converter_that_fails_says_so_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MNN's converter does not take this network") as caught:
        mnn_engine.write_mnn(onnx.ModelProto(), tmp_path / "net.mnn")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
