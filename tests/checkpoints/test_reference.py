"""The official implementations' layouts and logits, and timm's: loaded, computed, written back."""

import re
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.utils import reparameterize_model

import zoo
from tests.support import reference
from tests.support.blocks import randomise
from zoo.checkpoints import Checkpoint, in_layout
from zoo.checkpoints.recognise import recognise
from zoo.checkpoints.tables import LAYOUTS
from zoo.checkpoints.yolov7 import YOLOV7X_BACKBONE

SMALL = [
    name
    for name in reference.layouts()
    if name.startswith(("RepVGG-A0", "ResNet-18", "MobileNet", "repghostnet_0_5x", "repghostnet_norep", "mobileone_s0"))
]
WIDTHS = r"(RepVGG-(A1|B0|B1|B2|B3|B3g2)|mobileone_s2|repghostnet_(0_8|1_[035])x)\.deploy"
BIG = [
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


def official_qarepvgg(state, x):
    """Logits of QARepVGGV2-A0, of the names and values of its official checkpoint alone."""

    def bn(name, x):
        mean, var, weight, bias = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias)

    for stage, depth in enumerate([1, 2, 4, 14, 1]):
        for position in range(depth):
            name, stride = f"stage{stage}.{position}" if stage else "stage0", 1 if position else 2
            y = bn(f"{name}.rbr_dense.bn", F.conv2d(x, state[f"{name}.rbr_dense.conv.weight"], None, stride, 1))
            y = y + F.conv2d(x, state[f"{name}.rbr_1x1.weight"], None, stride)
            x = bn(f"{name}.bn", y + x if position else y).relu()
    return F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])


def test_an_official_qarepvgg_checkpoint_gives_the_official_logits_and_is_written_back_bit_for_bit(tmp_path):
    name = "qarepvgg_a0"
    state = in_layout(randomise(zoo.create_model(name, num_classes=5)), build(name), name, "official")
    assert len(state) == 22 * (1 + 2 * 5 + 1) + 2
    torch.save(state, tmp_path / "official.pth")
    network = zoo.create_model(name, checkpoint=tmp_path / "official.pth", dtype=torch.float64).eval()
    images = reference.images().double()
    wanted = official_qarepvgg({key: value.double() for key, value in state.items()}, images)
    assert reference.relative_error(logits(network, images), wanted) <= 1e-9
    written = in_layout(network.float(), build(name), name, "official")
    assert written.keys() == state.keys() and all(torch.equal(written[key], state[key]) for key in state)
    deployed = in_layout(zoo.deploy(network), build(name), name, "official")
    torch.save(deployed, tmp_path / "deployed.pth")
    again = zoo.create_model(name, checkpoint=tmp_path / "deployed.pth")
    assert zoo.is_deployed(again) and {"stage0.rbr_reparam.weight", "linear.bias"} <= deployed.keys()
    assert reference.relative_error(logits(again, images.float()), wanted) <= 1e-4


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
    """A deployed file adds nothing to another width's, of `SMALL`, and the same network's in training structure."""
    networks = {}
    widths = {name for name in reference.layouts() if re.fullmatch(WIDTHS, name)}
    assert len(widths) == 11 and {name.replace(".deploy", ".train") for name in widths} <= reference.layouts().keys()
    for name in reference.layouts().keys() - {*SMALL, *BIG} - widths:
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
    acb = ".square_" in str(layout.rules)
    name = {
        "repvgg_*": "repvgg_d2se",
        "qarepvgg_*": "qarepvgg_b1g4",
        "repvggplus_*": "repvggplus_l2pse",
        "mobileone_*": "mobileone_s4",
        "repghostnet_*": "repghostnet_0.5x",
        "*resnet*[0148]": "acnet_resnet18" if acb else "dbb_resnet18",
        "*mobilenet_v1": "acnet_mobilenet_v1" if acb else "dbb_mobilenet_v1",
        "*densenet*": "densenet121",
        "orepa_repvgg_*": "orepa_repvgg_a0",
        "orepa_resnet*[48]": "orepa_resnet18",
        "orepa_resnet*[01]": "orepa_resnet50",
        "*resnet[13][48]": "acnet_resnet18",
        "*resnet[15]0*": "acnet_resnet50",
        "yolov7": "yolov7",
        "yolov7x": "yolov7x",
        "yolov7_backbone*": "yolov7_backbone",
        "*alexnet": "acnet_alexnet" if acb else "dbb_alexnet",
        "*cifar_quick": "acnet_cifar_quick" if acb else "cifar_quick",
        "*vgg16_cifar*": "acnet_vgg16_cifar10" if acb else "vgg16_cifar10",
        "*resnet56": "acnet_resnet56" if acb else "resnet56",
        "*wrn_16_8": "acnet_wrn_16_8" if acb else "wrn_16_8",
    }[layout.models]
    # No classifier in YOLOv7's; the second layout of a backbone is that of the deeper one.
    yolov7 = {"num_classes": 0, **({"depth_multiplier": 1.5} if layout is YOLOV7X_BACKBONE else {})}
    keys = list(build(name, **(yolov7 if name.startswith("yolov7") else {})).state_dict())
    if layout.name == "plain":  # all of the plain network, and of the one with blocks only its part
        keys = list(build(name.removeprefix("dbb_")).state_dict())
    names = layout.names(keys)
    assert names is not None
    assert sorted(names.values()) == sorted(keys)


@pytest.mark.parametrize(
    ("structure", "theirs", "ours"),
    [
        ("train", "repvgg_a0", "repvgg_a0"),
        ("deployed", "repvgg_a0", "repvgg_a0"),
        ("train", "mobileone_s0", "mobileone_s0"),  # several branches of a kind
        ("deployed", "mobileone_s4", "mobileone_s4"),  # squeeze and excitation
        ("train", "repghostnet_050", "repghostnet_0.5x"),
        ("deployed", "repghostnet_050", "repghostnet_0.5x"),
    ],
)
def test_timms_weights_give_timms_logits(structure, theirs, ours, tmp_path):
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
    own, their = match.network.state_dict(), peer.state_dict()
    assert all(own[native].shape == their[name].shape for name, native in match.names.items())
