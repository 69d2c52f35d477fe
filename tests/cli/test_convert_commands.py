"""`zoo deploy`, `zoo expand` and `zoo inspect`."""

import json
from unittest.mock import Mock

import pytest
import timm
import torch

import zoo
from tests.support.blocks import fill_convs, randomise
from zoo.checkpoints import read_checkpoint, save_weights
from zoo.cli.main import main
from zoo.compare import relative_error
from zoo.models.repghostnet import STAGES

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def run(capsys, *argv) -> dict:
    assert main([*map(str, argv), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


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


@pytest.mark.parametrize(
    ("name", "kwargs", "expanded"),
    [
        ("repvgg_tiny", {}, 8),
        ("timm/test_byobnet", {"block": "acb"}, 6),
        ("repghostnet_0.5x", {}, 10),  # has K×K convolutions outside its blocks, which stay as they are
    ],
)
def test_a_deployed_file_can_be_expanded_and_trained(name, kwargs, expanded, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("zoo.models.repghostnet.STAGES", tuple(rows[:1] for rows in STAGES))
    wanted = write(tmp_path / "train.safetensors", name, **kwargs)
    size = ("--img-size", 32)
    run(capsys, "deploy", tmp_path / "train.safetensors", "-o", tmp_path / "deployed.safetensors", *size)
    data = ("--dataset", "fashion", "--calibration-images", 16)
    result = run(
        capsys, "expand", tmp_path / "deployed.safetensors", "--block", "dbb", "-o", tmp_path / "x.safetensors",
        *size, *data,
    )  # fmt: skip
    assert result["expanded"] == expanded
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
    assert "block" in out and "ver" in out and "%" in out and "blocks: 8" in out and "{" not in out


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    write(tmp_path / "train.safetensors", "repvgg_tiny")
    here, there = tmp_path / "train.safetensors", tmp_path / "x.safetensors"
    for argv, message in (
        (["deploy", "nowhere.safetensors", "-o", there], "no such checkpoint"),
        (["deploy", here, "-o", tmp_path / "no" / "x.safetensors"], "x.safetensors does not exist"),
        (["deploy", here, "-o", tmp_path / "x.pth"], "output: expected a name ending in .safetensors"),
        (["inspect", "repvgg_tiny", "--num-classes", "-1"], "num_classes: expected int >= 1, got '-1'"),
        (["deploy", here, "-o", there, "--img-size", "0"], "img_size: expected int >= 8, got '0'"),
        (["deploy", "-o", there], "required: CHECKPOINT"),
        (["convert-checkpoint", here, "-o", there, "--to", "offical"], "did you mean official?"),
        (["expand", here, "-o", there], "has branches already"),
        (["inspect", "repvgg_tinny"], "did you mean repvgg_tiny"),
    ):
        assert main([str(arg) for arg in argv]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and message in error[0]
    assert not there.exists()


def test_deploy_folds_a_network_of_others_by_its_name(tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    model = randomise(timm.create_model("test_efficientnet")).eval()
    published = Mock(wraps=timm.create_model, return_value=model)
    with monkeypatch.context() as patch:  # no network in tests
        patch.setattr(timm, "create_model", published)
        result = run(capsys, "deploy", "timm/test_efficientnet", "-o", tmp_path / "folded.safetensors")
    assert published.call_args.kwargs["pretrained"] is True
    assert (result["blocks"], result["left"]) == (0, {}) and result["params"][1] < result["params"][0]
    folded = reopen(tmp_path / "folded.safetensors")
    assert relative_error(answer(folded), answer(model)) < 1e-5
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())


def test_deploy_by_name_takes_no_options_of_a_file(tmp_path, capsys):
    argv = ["deploy", "timm/resnet18", "--num-classes", "7", "-o", str(tmp_path / "x.safetensors")]
    assert main(argv) == 2 and not list(tmp_path.iterdir())
    assert capsys.readouterr().err == (
        "zoo deploy: error: timm/resnet18: published weights have their own network, classes and block\n"
    )


def test_inspect_shows_where_a_network_is_linear_and_what_is_left(capsys):
    result = run(capsys, "inspect", "timm/test_efficientnet")
    assert result["regions"]["conv_stem"] == ["conv_stem", "bn1"]
    assert result["left"] == {} and result["macs"][1] <= result["macs"][0]
    assert run(capsys, "inspect", "timm/test_vit")["regions"] == {}
