"""The official implementations' layouts and logits, and timm's: loaded, computed, written back."""

from pathlib import Path

import pytest
import timm
import torch
from timm.utils import reparameterize_model

import zoo
from tests import reference
from tests.blocks import randomise
from zoo.checkpoints import Checkpoint, in_layout
from zoo.checkpoints.recognise import recognise
from zoo.checkpoints.tables import LAYOUTS

SMALL = [
    name
    for name in reference.layouts()
    if name.startswith(("RepVGG-A0", "ResNet-18", "MobileNet", "repghostnet_0_5x", "repghostnet_norep", "mobileone_s0"))
]
BIG = [
    "RepVGG-B1g2.train",
    "RepVGG-D2se.train",
    "ResNet-50_ACB.deploy",
    "repghostnet_wo_0_5x.train",
    "mobileone_s4.train",
]


def build(name, **kwargs):
    with torch.device("meta"):
        return zoo.create_model(name, **kwargs)


def load(name, tmp_path):
    path = tmp_path / f"{name}.pth"
    torch.save(reference.state_dict(name), path)
    return zoo.create_model(reference.registered(name), checkpoint=path).eval()


def logits(model, images):
    with torch.no_grad():
        return model(images)


@pytest.mark.parametrize("name", SMALL)
def test_an_official_checkpoint_gives_the_official_logits_and_is_written_back_bit_for_bit(name, tmp_path):
    network, ours = load(name, tmp_path), reference.registered(name)
    assert reference.relative_error(logits(network, reference.images()), reference.logits(name)) <= 1e-5
    assert zoo.is_deployed(network) == ("_base" in name or name.endswith("deploy"))
    if ours.startswith("repghostnet") and name.endswith("deploy"):
        return  # the file's BatchNorms have been folded: test_checkpoints_write.py
    written, wanted = in_layout(network, build(ours), ours, "official"), reference.state_dict(name)
    assert written.keys() == wanted.keys()
    assert all(torch.equal(written[key], wanted[key]) for key in wanted)


@pytest.mark.slow
def test_official_checkpoints_of_large_networks_give_the_official_logits(tmp_path):
    """In float64: MobileOne-S4 with these weights amplifies the rounding of its input 200-fold and more."""
    errors = {}
    for name in BIG:
        network = load(name, tmp_path).double()
        errors[name] = reference.relative_error(logits(network, reference.images().double()), reference.logits(name))
    assert max(errors.values()) <= 1e-6, errors


@pytest.mark.slow
def test_every_other_reference_layout_is_recognised_with_its_structure_and_sizes():
    networks = {}
    for name in reference.layouts().keys() - {*SMALL, *BIG}:
        entry, ours = reference.layouts()[name], reference.registered(name)
        network = networks[ours] = networks.get(ours) or build(ours)
        state = {key: torch.empty(shape, device="meta") for key, shape in entry["layout"].items()}
        match = recognise(network, Checkpoint(Path(name), state))
        wanted = {"train": ["train"], "deploy": ["deployed", "blocks deployed"]}[entry["structure"]]
        assert match.fits and match.structure in wanted, name
        assert match.layout.name == "official", name
        own = match.network.state_dict()
        assert all(own[native].shape == state[theirs].shape for theirs, native in match.names.items()), name


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.name}-{layout.models}")
def test_every_layout_is_one_to_one(layout):
    name = {
        "repvgg_*": "repvgg_d2se",
        "repvggplus_*": "repvggplus_l2pse",
        "mobileone_*": "mobileone_s4",
        "repghostnet_*": "repghostnet_0.5x",
        "*resnet*": "acnet_resnet18" if ".square_" in str(layout.rules) else "dbb_resnet18",
        "*mobilenet_v1": "acnet_mobilenet_v1" if ".square_" in str(layout.rules) else "dbb_mobilenet_v1",
        "*densenet*": "densenet121",
        "*alexnet": "acnet_alexnet" if ".square_" in str(layout.rules) else "dbb_alexnet",
    }[layout.models]
    keys = list(build(name).state_dict())
    if layout.name == "plain":  # all of the plain network, and of the one with blocks only its part
        keys = list(build(name.removeprefix("dbb_")).state_dict())
    names = layout.names(keys)
    assert names is not None
    assert sorted(names.values()) == sorted(keys)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("repvgg_a0", "repvgg_a0"), ("repvgg_b1g4", "repvgg_b1g4"), ("mobileone_s0", "mobileone_s0"),
     ("mobileone_s4", "mobileone_s4"), ("repghostnet_050", "repghostnet_0.5x")],
)  # fmt: skip
@pytest.mark.parametrize("structure", ["train", "deployed"])
def test_timms_weights_give_timms_logits(theirs, ours, structure, tmp_path):
    peer = randomise(timm.create_model(theirs, num_classes=10)).eval().double()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    wanted = logits(peer, images)
    if structure == "deployed":
        peer = reparameterize_model(peer)
    torch.save(peer.state_dict(), tmp_path / "timm.pth")
    network = zoo.create_model(ours, checkpoint=tmp_path / "timm.pth", dtype=torch.float64).eval()
    assert zoo.is_deployed(network) == (structure == "deployed")
    assert reference.relative_error(logits(network, images), wanted) <= 1e-9
    peer.load_state_dict(in_layout(network, build(ours), ours, "timm"))
    assert reference.relative_error(logits(peer, images), wanted) <= 1e-9


def test_every_network_of_timm_that_we_have_is_evaluated_alike():
    names = {
        **{name: name for name in timm.list_models(["repvgg_*", "mobileone_*"])},
        **{name: f"repghostnet_{int(name[-3:]) / 100}x" for name in timm.list_models("repghostnet_*")},
    }
    assert len(names) == 24
    for theirs, ours in names.items():
        cfg = timm.get_pretrained_cfg(theirs)
        assert cfg and evaluated(zoo.model_entry(ours).cfg) == evaluated(cfg.to_dict()), theirs


def evaluated(cfg):
    """Image size, crop, interpolation, mean and deviation of timm's evaluation."""
    size, crop = (cfg.get(f"test_{key}") or cfg[key] for key in ("input_size", "crop_pct"))
    return tuple(size), crop, cfg["interpolation"], tuple(cfg["mean"]), tuple(cfg["std"])


@pytest.mark.parametrize(("theirs", "ours"), [("repvgg_d2se", "repvgg_d2se"), ("repghostnet_200", "repghostnet_2.0x")])
def test_timms_names_and_sizes_are_ours(theirs, ours):
    with torch.device("meta"):
        peer = timm.create_model(theirs)
    match = recognise(build(ours), Checkpoint(Path(theirs), peer.state_dict()))
    assert match.fits
    own = match.network.state_dict()
    assert all(own[native].shape == peer.state_dict()[name].shape for name, native in match.names.items())
