"""Writing: through the command line, and deployed networks into stock ones."""

import json
from pathlib import Path

import pytest
import torch
import torchvision

import zoo
from tests.support import reference
from tests.support.blocks import fill_convs, randomise
from zoo.checkpoints import Checkpoint, CheckpointError, in_layout, read_checkpoint, save_weights
from zoo.checkpoints.recognise import recognise
from zoo.checkpoints.write import STOCK
from zoo.cli.main import main


def logits(model, images):
    with torch.no_grad():
        return model.eval()(images)


def images(dtype=torch.float32):
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(dtype)


def convert(source, model, to, target, capsys):
    assert main(["convert-checkpoint", str(source), "--model", model, "--to", to, "-o", str(target), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_from_the_official_layout_to_ours_to_timms_and_back(tmp_path, capsys):
    official = reference.state_dict("RepVGG-A0.train")
    torch.save({"model": {f"module.{name}": tensor for name, tensor in official.items()}}, tmp_path / "official.pth")
    summary = convert(tmp_path / "official.pth", "repvgg_a0", "zoo", tmp_path / "zoo.safetensors", capsys)
    assert summary["structure"] == "train"
    assert summary["tensors"] == len(official)
    convert(tmp_path / "zoo.safetensors", "repvgg_a0", "timm", tmp_path / "timm.safetensors", capsys)
    assert "stem.conv_kxk.conv.weight" in read_checkpoint(tmp_path / "timm.safetensors").state_dict
    convert(tmp_path / "timm.safetensors", "repvgg_a0", "official", tmp_path / "again.pth", capsys)
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert again.keys() == official.keys()
    assert all(torch.equal(again[name], official[name]) for name in official)


def test_a_file_of_ours_knows_its_network(tmp_path, capsys):
    network = zoo.create_model("repvgg_tiny", num_classes=7)
    source, target = tmp_path / "x.safetensors", tmp_path / "y.pth"
    save_weights(source, network.state_dict(), {"model": "repvgg_tiny"})
    assert main(["convert-checkpoint", str(source), "--to", "official", "-o", str(target)]) == 0
    assert "stage0.rbr_dense.conv.weight" in torch.load(target, weights_only=True)


@pytest.mark.parametrize(
    ("model", "convs"),
    [
        ("alexnet", ("conv",)),
        ("acnet_alexnet", ("square_conv", "ver_conv", "hor_conv")),
        (
            "dbb_alexnet",
            ("dbb_origin.conv", "dbb_1x1.conv", "dbb_avg.conv", "dbb_1x1_kxk.idconv1", "dbb_1x1_kxk.conv2"),
        ),
    ],
)
@pytest.mark.parametrize("deploy", [False, True])
def test_alexnets_official_names_are_those_of_its_repositorys_alexnet_py(model, convs, deploy):
    train, network = (zoo.create_model(model, deploy=d, device="meta") for d in (False, deploy))
    state = in_layout(network, train, model, "official")
    if deploy:
        convs = {"alexnet": ("conv",), "acnet_alexnet": ("fused_conv",), "dbb_alexnet": ("dbb_reparam",)}[model]
    kernels = {"stem.conv1.conv", *(f"stem.conv{layer}.{conv}" for layer in range(2, 6) for conv in convs)}
    assert {name for name, tensor in state.items() if tensor.ndim == 4} == {f"{kernel}.weight" for kernel in kernels}
    linears = {f"linear{layer}.weight" for layer in (1, 2, 3)}
    assert {name for name, tensor in state.items() if tensor.ndim == 2} == linears
    match = recognise(train, Checkpoint(Path("x.pth"), state))
    assert match.fits and match.layout.name == "official"


def test_repghosts_deployed_layout_gets_batchnorms_that_only_add(tmp_path):
    network = zoo.deploy(randomise(zoo.create_model("repghostnet_0.5x", num_classes=7)).eval())
    with torch.device("meta"):
        train = zoo.create_model("repghostnet_0.5x")
    written = in_layout(network, train, "repghostnet_0.5x", "official")
    assert written.keys() == reference.layouts()["repghostnet_0_5x.deploy"]["layout"].keys()
    torch.save(written, tmp_path / "x.pth")
    again = zoo.create_model("repghostnet_0.5x", checkpoint=tmp_path / "x.pth")
    assert reference.relative_error(logits(again, images()), logits(network, images())) < 1e-5


@pytest.mark.parametrize("name", ["dbb_resnet50", "acnet_resnet50"])
def test_a_deployed_resnet50_loads_into_torchvisions(name):
    network = zoo.create_model(name, num_classes=7)
    network = zoo.deploy(fill_convs(randomise(network)).eval(), verify=False).double()
    with torch.device("meta"):
        train = zoo.create_model(name)
    stock = torchvision.models.resnet50(num_classes=7).double()
    stock.load_state_dict(in_layout(network, train, name, "stock"))
    error = reference.relative_error(logits(stock, images(torch.float64)), logits(network, images(torch.float64)))
    assert error < 1e-12


@pytest.mark.parametrize("name", ["dbb_resnet18", "dbb_mobilenet_v1"])
def test_the_command_line_deploys_into_a_stock_network(name, tmp_path, capsys):
    network = fill_convs(randomise(zoo.create_model(name, num_classes=1000))).eval()
    torch.save(network.state_dict(), tmp_path / "train.pth")
    summary = convert(tmp_path / "train.pth", name, "stock", tmp_path / "stock.pth", capsys)
    assert summary["structure"] == "deployed"
    stock = STOCK[name.removeprefix("dbb_")]()
    stock.load_state_dict(torch.load(tmp_path / "stock.pth", weights_only=True))
    assert reference.relative_error(logits(stock, images()), logits(network, images())) < 1e-5


@pytest.mark.parametrize(
    ("model", "to", "message"),
    [
        ("repvgg_tiny", "stock", "no plain network for it; known: official, timm, zoo"),
        ("dbb_resnet18", "timm", "no 'timm' layout of it is known; known: official, stock, zoo"),
        ("acnet_densenet121", "official", "no 'official' layout of it is known; known: zoo"),
    ],
)
def test_a_layout_that_does_not_exist_is_refused(model, to, message):
    with torch.device("meta"):
        network = zoo.create_model(model)
    with pytest.raises(CheckpointError, match=message):
        in_layout(network, network, model, to)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_folder_that_does_not_exist_is_named(suffix, tmp_path):
    path = tmp_path / "none" / f"x{suffix}"
    with pytest.raises(FileNotFoundError, match=rf"^cannot write {path}: its folder does not exist$"):
        save_weights(path, {"weight": torch.ones(1)})


def test_train_structure_has_no_place_in_a_stock_network():
    with torch.device("meta"):
        network = zoo.create_model("dbb_resnet18")
    with pytest.raises(CheckpointError, match=r"dbb_resnet18: .* deployed weights are needed"):
        in_layout(network, network, "dbb_resnet18", "stock")


def test_a_failed_write_leaves_the_old_file(tmp_path, capsys):
    source, target = tmp_path / "x.pth", tmp_path / "y.pth"
    torch.save(zoo.create_model("repvgg_tiny").state_dict(), source)
    target.write_text("old")
    assert main(["convert-checkpoint", str(source), "--model", "repvgg_tiny", "--to", "stock", "-o", str(target)]) == 2
    assert "no plain network" in capsys.readouterr().err
    assert target.read_text() == "old"
