"""`zoo export`: a checkpoint in, files and one line of JSON out."""

import json
from pathlib import Path

import pytest
import torch
from export_networks import images, small_network

import zoo
from zoo.cli import export
from zoo.cli.export import main

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def trained() -> torch.nn.Module:
    torch.manual_seed(0)
    return zoo.create_model("timm/test_resnet", num_classes=10, block="acb").eval()


@pytest.fixture(scope="module")
def checkpoint(trained: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of timm with ACB blocks, saved as a training program does."""
    path = tmp_path_factory.mktemp("checkpoint") / "last.pth"
    content = {"model": "timm/test_resnet", "block": "acb", "num_classes": 10, "state_dict": trained.state_dict()}
    torch.save(content, path)
    return path


def test_the_checkpoint_says_which_network_it_is(checkpoint: Path, trained: torch.nn.Module) -> None:
    options = export._parser().parse_args([str(checkpoint), "--output", "net.onnx", "--img-size", "48"])
    name, model, read = export._network(options)
    assert name == "timm/test_resnet" and not model.training
    assert export._example(model, read, options).shape == (1, 3, 48, 48)
    assert torch.equal(model(images(1)), trained(images(1)))


def test_both_structures_are_written_and_their_difference_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_network", lambda options: ("small", small_network(), None))
    output = tmp_path / "net.onnx"
    arguments = ["--output", str(output), "--structure", "both", "--img-size", "32", "--batch-size", "2"]
    assert main(arguments) == 0
    *text, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    deployed, train = result["files"]
    assert result["model"] == "small"
    assert [Path(file["path"]).name for file in (deployed, train)] == ["net.onnx", "net-train.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net-train.onnx", "net.onnx"]
    assert deployed["input_shape"] == [2, 3, 32, 32] and deployed["parity"]["max_relative_error"] < 1e-5
    rows = [line.split() for line in text if line.startswith(("Conv ", "BatchNormalization "))]
    assert rows == [["BatchNormalization", "0", "2", "+2"], ["Conv", "4", "7", "+3"]]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "the following arguments are required: --output"),
        (["--output", "net.onnx"], "give a CHECKPOINT"),
        (["missing.pth", "--output", "net.onnx"], "missing.pth: no such checkpoint"),
        (["CHECKPOINT", "--output", "net.onnx", "--structure", "bth"], "did you mean both"),
        (["CHECKPOINT", "--output", "net.onnx", "--format", "onx"], "did you mean onnx"),
        (["CHECKPOINT", "--output", "net.onnx", "--precision", "int8"], "--data-dir, --dataset, or --random"),
        (["missing.pth", "--output", "nope/net.onnx"], "the folder of nope/net.onnx does not exist"),
        (["missing.pth", "--output", "net.xml"], "the name of an onnx file ends in .onnx"),
        (["missing.pth", "--output", "net.onnx", "--structure", "both", "--precision", "int8"], "int8 is made from"),
        (["CHECKPOINT", "--output", "net.onnx", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
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
    assert main([str(checkpoint) if word == "CHECKPOINT" else word for word in arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("zoo export: error: ")
    assert len(captured.err.splitlines()) == 1 and not list(tmp_path.iterdir())
