"""`zoo export`: a checkpoint in, files and one line of JSON out."""

import json
from pathlib import Path

import pytest
import torch

import zoo
from zoo.cli.export import main

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of timm with ACB blocks, saved as a training program does."""
    path = tmp_path_factory.mktemp("checkpoint") / "last.pth"
    torch.manual_seed(0)
    model = zoo.create_model("timm/test_resnet", num_classes=10, block="acb")
    content = {"model": "timm/test_resnet", "block": "acb", "num_classes": 10, "state_dict": model.state_dict()}
    torch.save(content, path)
    return path


def test_both_structures_are_written_and_their_difference_printed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "net.onnx"
    arguments = [str(checkpoint), "--output", str(output), "--structure", "both", "--img-size", "32"]
    assert main([*arguments, "--batch-size", "2"]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    deployed, train = result["files"]
    assert result["model"] == "timm/test_resnet"
    assert [Path(file["path"]).name for file in (deployed, train)] == ["net.onnx", "net-train.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net-train.onnx", "net.onnx"]
    assert deployed["input_shape"] == [2, 3, 32, 32] and deployed["parity"]["max_relative_error"] < 1e-5
    blocks = (train["nodes"]["Conv"] - deployed["nodes"]["Conv"]) // 2  # three convolutions each become one
    assert blocks == 10
    row = next(line.split() for line in text if line.startswith("Conv "))
    assert row == ["Conv", str(deployed["nodes"]["Conv"]), str(train["nodes"]["Conv"]), "+20"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "the following arguments are required: --output"),
        (["--output", "net.onnx"], "give a CHECKPOINT"),
        (["missing.pth", "--output", "net.onnx"], "missing.pth: no such checkpoint"),
        (["CHECKPOINT", "--output", "net.onnx", "--structure", "bth"], "did you mean both"),
        (["CHECKPOINT", "--output", "net.onnx", "--format", "onx"], "did you mean onnx"),
        (["CHECKPOINT", "--output", "net.onnx", "--precision", "int8"], "--data-dir, --dataset, or --random"),
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
