"""Loading into a network: strict, of either structure, with the exceptions that timm makes."""

import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import zoo
from tests.support import reference
from tests.support.blocks import fill_convs, randomise
from zoo.checkpoints import Checkpoint, CheckpointError, read_checkpoint, save_deployed, save_weights
from zoo.cli.main import main
from zoo.reparam.block import MultiBranchConv2d

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def logits(model, images=IMAGES):
    with torch.no_grad():
        return model.eval()(images)


def features(model: Any) -> Tensor:
    return model.forward_features(IMAGES)


@pytest.fixture
def trained():
    return randomise(zoo.create_model("repvgg_tiny", num_classes=7)).eval()


@pytest.mark.parametrize("structure", ["train", "deployed"])
def test_our_own_weights_come_back_in_their_structure_and_number_of_classes(structure, trained, tmp_path):
    network = zoo.deploy(trained) if structure == "deployed" else trained
    save_weights(tmp_path / "x.safetensors", network.state_dict())
    loaded = zoo.create_model("repvgg_tiny", checkpoint=tmp_path / "x.safetensors")
    assert torch.equal(logits(loaded), logits(network))
    assert loaded.num_classes == 7
    assert zoo.is_deployed(loaded) == (structure == "deployed")
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_deployed_file_says_what_it_is_and_how_its_network_was_built(tmp_path):
    network = randomise(zoo.create_model("repvgg_tiny", num_classes=7, in_chans=1)).eval()
    deployed, report = zoo.deploy_with_report(network)
    path = tmp_path / "deployed.safetensors"
    save_deployed(deployed, path, "repvgg_tiny", report, model_kwargs={"in_chans": 1})
    metadata = read_checkpoint(path).metadata
    assert (metadata["model"], metadata["structure"], metadata["num_classes"]) == ("repvgg_tiny", "deployed", 7)
    assert len(metadata["report"]["blocks"]) == 8
    images = IMAGES[:, :1]
    assert torch.equal(logits(zoo.create_model("repvgg_tiny", checkpoint=path), images), logits(deployed, images))


def test_deploying_a_loaded_network_is_proven_and_equal(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "x.pth")
    deployed = zoo.create_model("repvgg_tiny", checkpoint=tmp_path / "x.pth", deploy=True)
    assert zoo.is_deployed(deployed)
    assert reference.relative_error(logits(deployed), logits(trained)) < 1e-5


def test_half_precision_and_loaded_in_another_dtype(trained, tmp_path):
    torch.save({name: tensor.half() for name, tensor in trained.state_dict().items()}, tmp_path / "x.pth")
    network = zoo.create_model("repvgg_tiny", checkpoint=tmp_path / "x.pth", dtype=torch.float64)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
    assert reference.relative_error(logits(network, IMAGES.double()), logits(trained)) < 1e-2


def test_a_loaded_network_shares_no_memory_with_the_checkpoint(trained):
    checkpoint = Checkpoint(Path("x"), trained.state_dict())
    network = zoo.create_model("repvgg_tiny", checkpoint=checkpoint)
    before = logits(trained)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(logits(trained), before)


def test_loading_initialises_nothing_in_vain(trained, tmp_path, monkeypatch):
    torch.save(trained.state_dict(), tmp_path / "x.pth")
    made = []
    reset = torch.nn.Conv2d.reset_parameters
    monkeypatch.setattr(torch.nn.Conv2d, "reset_parameters", lambda conv: (made.append(conv), reset(conv))[1])
    zoo.create_model("repvgg_tiny", checkpoint=tmp_path / "x.pth")
    assert all(conv.weight.is_meta or conv.weight.requires_grad for conv in made)
    assert len(made) == len(set(map(id, made)))


def test_load_checkpoint_into_a_network_at_hand_keeps_its_parameters(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "x.pth")
    network = zoo.create_model("repvgg_tiny", num_classes=7)
    before = list(network.parameters())
    assert zoo.load_checkpoint(network, tmp_path / "x.pth") is network
    assert all(a is b for a, b in zip(before, network.parameters(), strict=True))
    assert torch.equal(logits(network), logits(trained))


def test_missing_batch_counts_of_old_files_are_no_obstacle(trained, tmp_path):
    state = {name: tensor for name, tensor in trained.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "x.pth")
    loaded = zoo.create_model("repvgg_tiny", checkpoint=tmp_path / "x.pth")
    assert torch.equal(logits(loaded), logits(trained))
    assert not any(tensor.is_meta for tensor in loaded.state_dict().values())


# ---- classes, channels, features ----


@pytest.mark.parametrize("structure", ["train", "deployed"])
def test_another_number_of_classes_gets_a_fresh_head_and_a_warning(structure, trained, tmp_path, caplog):
    network = zoo.deploy(trained) if structure == "deployed" else trained
    torch.save(network.state_dict(), tmp_path / "x.pth")
    with caplog.at_level(logging.WARNING):
        loaded = zoo.create_model("repvgg_tiny", checkpoint=tmp_path / "x.pth", num_classes=3)
    (message,) = [record.getMessage() for record in caplog.records]
    assert (
        message == f"{tmp_path / 'x.pth'}: its classifier has 7 classes; one of 3, freshly initialised, takes its place"
    )
    assert logits(loaded).shape == (2, 3)
    with torch.no_grad():
        assert torch.equal(features(loaded), features(network))


def test_no_classes_means_no_head_and_no_warning(trained, tmp_path, caplog):
    torch.save(trained.state_dict(), tmp_path / "x.pth")
    loaded = zoo.create_model("repvgg_tiny", checkpoint=tmp_path / "x.pth", num_classes=0)
    assert logits(loaded).shape == (2, 192)
    assert not caplog.records


@pytest.mark.parametrize("structure", ["train", "deployed"])
def test_grey_images_sum_the_first_convolution_over_colours(structure, trained, tmp_path):
    network = zoo.deploy(trained) if structure == "deployed" else trained
    torch.save(network.state_dict(), tmp_path / "x.pth")
    grey = zoo.create_model("repvgg_tiny", checkpoint=tmp_path / "x.pth", in_chans=1)
    image = IMAGES[:, :1]
    assert reference.relative_error(logits(grey, image), logits(network, image.expand(-1, 3, -1, -1))) < 1e-5


@pytest.mark.parametrize("deploy", [False, True])
def test_features_are_those_of_the_loaded_network(deploy, trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "x.pth")
    network = zoo.create_model("repvgg_tiny", checkpoint=tmp_path / "x.pth", features_only=True, deploy=deploy)
    with torch.no_grad():
        last = network.eval()(IMAGES)[-1]
        assert reference.relative_error(last, features(trained)) < 1e-5


# ---- warm start ----


@pytest.mark.parametrize(
    ("plain", "converted"),
    [("resnet18", "dbb_resnet18"), ("mobilenet_v1", "acnet_mobilenet_v1"), ("alexnet", "acnet_alexnet")],
)
def test_plain_weights_go_into_the_kxk_branches_and_keep_their_function(plain, converted, tmp_path, caplog):
    network = fill_convs(randomise(zoo.create_model(plain, num_classes=7))).eval()
    torch.save(network.state_dict(), tmp_path / "x.pth")
    with caplog.at_level(logging.WARNING):
        started = zoo.create_model(converted, checkpoint=tmp_path / "x.pth")
    assert "plain weights, loaded into the K×K branches" in caplog.text
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert reference.relative_error(logits(started, images), logits(network, images)) < 1e-5
    block = next(module for module in started.modules() if isinstance(module, MultiBranchConv2d))
    others = [branch for name, branch in block.branches.items() if name != "kxk"]
    assert others
    for branch in others:
        *_, last = branch.children()
        assert not last.get_parameter("weight").any()
        assert all(p.any() for name, p in branch.named_parameters() if name == "conv.weight")


def test_densenets_plain_convolutions_go_into_the_blocks(tmp_path):
    plain = randomise(timm.create_model("densenet121", num_classes=7))
    torch.save(plain.state_dict(), tmp_path / "x.pth")
    started = zoo.create_model("acnet_densenet121", checkpoint=tmp_path / "x.pth")
    name = "features.denseblock2.denselayer3.conv2"
    assert torch.equal(started.get_parameter(f"{name}.branches.kxk.conv.weight"), plain.get_parameter(f"{name}.weight"))
    norm = "features.denseblock2.denselayer3.norm2.running_var"
    assert torch.equal(started.get_buffer(norm), plain.get_buffer(norm))


# ---- what does not fit ----


def one_line(call, *parts):
    with pytest.raises(CheckpointError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def test_a_checkpoint_of_a_network_of_other_size_names_that_one(tmp_path):
    path = tmp_path / "mobileone_s2.pth.tar"
    torch.save(reference.state_dict("mobileone_s2.deploy"), path)
    one_line(
        lambda: zoo.create_model("mobileone_s1", checkpoint=path),
        f"{path}: its names are those of mobileone_s1, but ",
        "differ in size or kind (stage2.1.reparam_conv.weight is 256×96×1×1 where the network has 192×96×1×1,",
        "it is of mobileone_s2: pass that as the model",
    )


def test_a_checkpoint_of_another_network_says_how_it_differs(trained, tmp_path):
    path = tmp_path / "x.pth"
    torch.save(trained.state_dict(), path)
    one_line(
        lambda: zoo.create_model("mobileone_s0", checkpoint=path),
        f"{path}: not a checkpoint of mobileone_s0: of the nearest (zoo layout, ",
        "names are missing",
        "are unknown (",
        "check the name of the network",
    )


def test_weights_of_another_block_are_compared_in_their_own_structure(tmp_path):
    torch.save(zoo.create_model("repvgg_tiny", block="acb").state_dict(), tmp_path / "x.pth")
    one_line(
        lambda: zoo.create_model("repvgg_tiny", checkpoint=tmp_path / "x.pth"),
        "of the nearest (zoo layout, train) ",
        "names are missing (stages.0.0.conv.branches.1x1.bn.bias,",
        "are unknown (stages.0.0.conv.branches.hor.bn.bias,",
    )


def test_a_file_that_names_its_network_is_believed_in_the_message(trained, tmp_path):
    path = tmp_path / "deployed.safetensors"
    save_deployed(zoo.deploy(trained), path, "repvgg_tiny")
    one_line(lambda: zoo.create_model("repvgg_a0", checkpoint=path), "it is of repvgg_tiny: pass that as the model")


def test_one_missing_and_one_unknown_tensor_are_named(trained, tmp_path):
    state = trained.state_dict()
    state["head.fc.scale"] = state.pop("head.fc.bias")
    torch.save(state, tmp_path / "x.pth")
    one_line(
        lambda: zoo.create_model("repvgg_tiny", checkpoint=tmp_path / "x.pth"),
        "1 names are missing (head.fc.bias) and 1 are unknown (head.fc.scale)",
    )


def test_the_command_line_ends_with_one_line_and_code_2(tmp_path, capsys):
    path = tmp_path / "x.pth"
    path.write_bytes(b"PK\x03\x04 truncated")
    assert main(["convert-checkpoint", str(path), "--model", "repvgg_a0", "-o", str(tmp_path / "y.pth")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"zoo convert-checkpoint: error: {path}: is truncated")
    assert error.count("\n") == 1
    assert not (tmp_path / "y.pth").exists()


def test_loading_never_unpickles_code(tmp_path):
    (tmp_path / "x.pth").write_bytes(pickle.dumps(print))
    one_line(lambda: zoo.create_model("repvgg_tiny", checkpoint=tmp_path / "x.pth"), str(tmp_path / "x.pth"))
