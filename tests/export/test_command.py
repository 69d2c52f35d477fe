"""`zoo export`: a checkpoint in, files and one line of JSON out."""

import json
from pathlib import Path

import pytest
import torch

import zoo
from tests.support.export_networks import images, small_network
from zoo.cli import export
from zoo.cli.config import parse
from zoo.cli.main import main
from zoo.cli.networks import open_weights
from zoo.export.config import ExportConfig

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def trained() -> torch.nn.Module:
    torch.manual_seed(0)
    return zoo.create_model("timm/test_resnet", num_classes=10, block="acb").eval()


@pytest.fixture(scope="module")
def checkpoint(trained: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of timm with ACB blocks, saved as train.py does."""
    path = tmp_path_factory.mktemp("checkpoint") / "last.pth"
    said = {"version": 1, "config": {"model": {"block": "acb"}}, "model": "timm/test_resnet", "num_classes": 10}
    torch.save({**said, "state_dict": trained.state_dict()}, path)
    return path


def test_the_checkpoint_says_which_network_it_is(checkpoint: Path, trained: torch.nn.Module) -> None:
    options = parse(ExportConfig, [str(checkpoint), "--output", "net.onnx", "--img-size", "48"], "zoo export")
    name, model = open_weights(options, options.pretrained)
    assert name == "timm/test_resnet" and not model.training
    assert torch.equal(model(images(1)), trained(images(1)))


def test_both_structures_are_written_and_their_difference_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "open_weights", lambda config, pretrained: ("small", small_network()))
    output = tmp_path / "net.onnx"
    arguments = ["--output", str(output), "--structure", "both", "--img-size", "32", "--batch-size", "2"]
    assert main(["export", *arguments, "--json"]) == 0
    captured = capsys.readouterr()
    text, result = captured.err.splitlines(), json.loads(captured.out)
    deployed, train = result["files"]
    assert result["model"] == "small"
    assert [Path(file["path"]).name for file in (deployed, train)] == ["net.onnx", "net-train.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net-train.onnx", "net.onnx"]
    assert deployed["input_shape"] == [2, 3, 32, 32] and deployed["parity"]["max_relative_error"] < 1e-5
    rows = [line.split() for line in text if line.startswith(("Conv ", "BatchNormalization "))]
    assert rows == [["BatchNormalization", "0", "2", "+2"], ["Conv", "4", "7", "+3"]]


@pytest.mark.slow
def test_int8_with_a_bound_shows_all_attempts(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights are random: float32 is right one time in ten, and any bound above that holds at once."""
    pytest.importorskip("nncf")
    images_ = ["--dataset", "fashion", "--calibration-images", "8", "--img-size", "16"]
    arguments = ["--output", str(tmp_path / "net.onnx"), "--precision", "int8", *images_, "--max-drop", "100"]
    assert main(["export", str(checkpoint), *arguments, "--json"]) == 0
    captured = capsys.readouterr()
    (file,) = json.loads(captured.out)["files"]
    (_, float32), (way, int8) = (attempt.values() for attempt in file["attempts"])
    assert way == "minimum and maximum" and 0 < float32 < 40 and 0 < int8 < 40
    assert f"top-1, %: fp32 {float32:.2f}, {way} {int8:.2f}" in captured.err.splitlines()


NOISE = ["--random-calibration", "--img-size", "32"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required: --output"),
        (["--output", "net.onnx"], "give a checkpoint"),
        (["CHECKPOINT", "--pretrained", "--model", "repvgg_a0", "--output", "net.onnx"], "give a checkpoint, or"),
        (["--pretrained", "--model", "repvgg_a0", "--num-classes", "5", "--output", "net.onnx"], "its own classes"),
        (["--pretrained", "--output", "net.onnx"], "of which network? name it with --model"),
        (["CHECKPOINT", "--num-classes", "5", "--output", "net.onnx"], "classes, not --num-classes 5"),
        (["missing.pth", "--output", "net.onnx"], "missing.pth: no such checkpoint"),
        (["CHECKPOINT", "--output", "net.onnx", "--structure", "bth"], "did you mean both"),
        (["CHECKPOINT", "--output", "net.onnx", "--format", "onx"], "did you mean onnx"),
        (["CHECKPOINT", "--output", "net.onnx", "--precision", "int8"], "--data-dir, --dataset, or --random"),
        (["CHECKPOINT", "--output", "net.onnx", "--precision", "int8", *NOISE, "--max-drop", "1"], "no top-1 to hold"),
        (["missing.pth", "--output", "net.onnx", "--max-drop", "1"], "max_drop is a setting of int8, not of fp32"),
        (["missing.pth", "--output", "nope/net.onnx"], "the folder of nope/net.onnx does not exist"),
        (["missing.pth", "--output", "net.xml", "--opset", "18"], "opset is a setting of ONNX files"),
        (["missing.pth", "--output", "net.xml", "--format", "onnx"], "the name of an onnx file ends in .onnx"),
        (["missing.pth", "--output", "net.onnx", "--structure", "both", "--precision", "int8"], "int8 is made from"),
        (["CHECKPOINT", "--output", "net.onnx", "--batch-size", "0"], "batch_size: expected int >= 1, got '0'"),
        (["CHECKPOINT", "--output", "net.onnx", "--model", "repvgg_a"], "unknown model 'repvgg_a'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    checkpoint: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export"] + [str(checkpoint) if word == "CHECKPOINT" else word for word in arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("zoo export: error: ")
    assert len(captured.err.splitlines()) == 1 and not list(tmp_path.iterdir())
