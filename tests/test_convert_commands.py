"""`zoo deploy`, `zoo expand` and `zoo inspect`."""

import json

import pytest
import torch

import zoo
from tests.blocks import fill_convs, randomise
from zoo.checkpoints import read_checkpoint, save_weights
from zoo.cli.main import main
from zoo.reparam.verify import relative_error

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def run(capsys, *argv) -> dict:
    assert main([str(arg) for arg in argv]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def write(path, name: str, **kwargs) -> torch.Tensor:
    """Write a network with random parameters; what it answers to IMAGES."""
    model = randomise(fill_convs(zoo.create_model(name, num_classes=10, **kwargs))).eval()
    save_weights(path, model.state_dict(), {"model": name, "num_classes": 10, **kwargs})
    return answer(model)


def answer(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IMAGES)


def reopen(path) -> torch.nn.Module:
    known = read_checkpoint(path)
    built = {key: known.metadata[key] for key in ("num_classes", "block") if known.metadata.get(key)}
    assert known.model is not None
    return zoo.create_model(known.model, checkpoint=path, **built)


def test_deploy_writes_the_proven_network(tmp_path, capsys):
    wanted = write(tmp_path / "train.safetensors", "repvgg_tiny")
    result = run(capsys, "deploy", tmp_path / "train.safetensors", "-o", tmp_path / "deployed.safetensors")
    assert (result["blocks"], result["model"]) == (8, "repvgg_tiny")
    model = reopen(tmp_path / "deployed.safetensors")
    assert zoo.is_deployed(model) and relative_error(answer(model), wanted) < 1e-5
    assert len(read_checkpoint(tmp_path / "deployed.safetensors").metadata["report"]["blocks"]) == 8


@pytest.mark.parametrize("name", ["repvgg_tiny", "timm/test_byobnet"])
def test_a_deployed_file_can_be_expanded_and_trained(name, tmp_path, capsys):
    kwargs = {} if name.startswith("repvgg") else {"block": "acb"}
    wanted = write(tmp_path / "train.safetensors", name, **kwargs)
    size = ("--img-size", 32)
    run(capsys, "deploy", tmp_path / "train.safetensors", "-o", tmp_path / "deployed.safetensors", *size)
    data = ("--dataset", "fashion", "--calibration-images", 64)
    result = run(
        capsys, "expand", tmp_path / "deployed.safetensors", "--block", "dbb", "-o", tmp_path / "x.safetensors",
        *size, *data,
    )  # fmt: skip
    assert result["expanded"] == (8 if name.startswith("repvgg") else 6)
    model = reopen(tmp_path / "x.safetensors")
    assert not zoo.is_deployed(model) and relative_error(answer(model), wanted) < 1e-4
    model.train()(IMAGES).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_plain_checkpoint_of_timm_can_be_expanded(tmp_path, capsys):
    wanted = write(tmp_path / "plain.safetensors", "timm/test_resnet")
    result = run(
        capsys, "expand", tmp_path / "plain.safetensors", "--block", "acb", "-o", tmp_path / "x.safetensors",
        "--img-size", 32,
    )  # fmt: skip
    assert (result["expanded"], result["left"], result["block"]) == (10, 5, "acb")
    assert relative_error(answer(reopen(tmp_path / "x.safetensors")), wanted) < 1e-4


def test_inspect_shows_each_branchs_share(tmp_path, capsys):
    write(tmp_path / "train.safetensors", "repvgg_tiny")
    result = run(capsys, "inspect", tmp_path / "train.safetensors")
    assert (result["structure"], result["blocks"], result["num_classes"]) == ("train", 8, 10)
    assert all(sum(shares.values()) == pytest.approx(1) for shares in result["shares"].values())
    assert set(result["shares"]["stem.conv"]) == {"kxk", "1x1"}


def test_inspect_takes_the_name_of_a_network(capsys):
    main(["inspect", "repvgg_tiny", "--block", "acb"])
    out = capsys.readouterr().out
    assert "block" in out and "ver" in out and "%" in out
    assert json.loads(out.splitlines()[-1])["blocks"] == 8


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    write(tmp_path / "train.safetensors", "repvgg_tiny")
    here, there = tmp_path / "train.safetensors", tmp_path / "x.safetensors"
    for argv, message in (
        (["deploy", "nowhere.safetensors", "-o", there], "no such checkpoint"),
        (["deploy", here, "-o", tmp_path / "no" / "x.safetensors"], "x.safetensors does not exist"),
        (["deploy", here, "-o", tmp_path / "x.pth"], "must end in .safetensors"),
        (["expand", here, "-o", there], "has branches already"),
        (["inspect", "repvgg_tinny"], "did you mean repvgg_tiny"),
    ):
        assert main([str(arg) for arg in argv]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and message in error[0]
    assert not there.exists()
