"""The structures the benchmark times: what they fold, and that they answer alike."""

import pytest
import timm
import torch
from torch import nn

import zoo
from tests.support.blocks import OutputToo, norms_in, randomise
from zoo.bench.structures import STRUCTURES, build_structures, fold_branches, peer_name
from zoo.cost import count
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.branches import build_block
from zoo.reparam.spec import ConvSpec

TINY = "repvgg_tiny"


@pytest.mark.parametrize("block", ["repvgg", "acb", "dbb", "mobileone", "kxk+1x1+asym+avg+identity"])
@pytest.mark.parametrize("stride", [1, 2])
def test_folded_branches_compute_what_the_train_structure_does(block, stride):
    spec = ConvSpec(in_channels=6, out_channels=6, kernel_size=(3, 3), stride=(stride, stride), padding=(1, 1))
    network = (
        randomise(nn.Sequential(build_block(spec, block), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4)))
        .eval()
        .double()
    )
    images = torch.randn(2, 6, 9, 9, dtype=torch.float64)
    folded = fold_branches(network, images)
    torch.testing.assert_close(folded(images), network(images), rtol=1e-10, atol=1e-10)
    before, after = network.get_submodule("0"), folded.get_submodule("0")
    assert isinstance(before, MultiBranchConv2d)
    assert isinstance(after, MultiBranchConv2d)
    assert after.branches.keys() == before.branches.keys()
    # What follows no convolution stays: the identity's BatchNorm (stride 1 only) and that behind average pooling.
    identity, pooled = stride == 1 and block not in ("acb", "dbb"), "avg" in block or block == "dbb"
    assert norms_in(folded) == identity + pooled


@pytest.mark.parametrize(
    "pair",
    [
        nn.Sequential(timm.layers.StdConv2d(3, 4, 3), nn.BatchNorm2d(4)),
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        OutputToo(),
    ],
    ids=["standardised", "weight norm", "batch statistics", "output"],
)
def test_what_cannot_be_folded_stays(pair):
    network = randomise(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), pair)).eval()
    images = torch.randn(2, 3, 9, 9)
    folded = fold_branches(network, images)
    assert norms_in(folded) == 1
    torch.testing.assert_close(folded(images), network(images))


def test_all_structures_of_a_network_answer_alike():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    networks = build_structures(TINY, list(STRUCTURES), images)
    with torch.inference_mode():
        answers = {name: network(images) for name, network in networks.items()}
    for name in ("folded", "deployed", "peer"):
        torch.testing.assert_close(answers[name], answers["train"], rtol=1e-4, atol=1e-5)
    assert zoo.is_deployed(networks["deployed"])
    assert not zoo.is_deployed(networks["folded"])
    assert norms_in(networks["deployed"]) == 0
    assert 0 < norms_in(networks["folded"]) < norms_in(networks["train"])
    assert 0.1 < answers["train"].std() < 10  # settled statistics: no map vanished or overflowed


def test_foreign_blocks_are_deployed_too():
    networks = build_structures("timm/repghostnet_050", ["train", "deployed"], torch.randn(1, 3, 32, 32))
    assert count(networks["deployed"]).params < count(networks["train"]).params == 2313968
    assert norms_in(networks["deployed"]) == 0


@pytest.mark.parametrize(("model", "side"), [("timm/test_vit", 160), ("timm/levit_128s", 224)])
def test_networks_that_take_one_size_only_are_built_too(model, side):
    images = torch.randn(1, 3, side, side)
    networks = build_structures(model, ["train", "deployed"], images)
    with torch.inference_mode():
        torch.testing.assert_close(networks["deployed"](images), networks["train"](images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "peer"),
    [
        ("repvgg_a0", "timm/repvgg_a0"),
        ("repvgg_b1g4", "timm/repvgg_b1g4"),
        ("repvgg_b1g2", None),
        ("repghostnet_1.0x", "timm/repghostnet_100"),
        ("repghostnet_0.58x", "timm/repghostnet_058"),
        ("mobileone_s4", "timm/mobileone_s4"),
        ("resnet50", "timm/resnet50"),
        ("acnet_resnet18", None),
        ("timm/resnet18", "timm/resnet18"),
    ],
)
def test_peers_are_networks_that_timm_has(model, peer):
    assert peer_name(model) == peer
    if peer:
        assert timm.is_model(peer.removeprefix("timm/"))


def test_unknown_structures_are_refused():
    with pytest.raises(ValueError, match="unknown structure 'fused': known are peer, train"):
        build_structures(TINY, ["fused"], torch.randn(1, 3, 32, 32))
