"""What timm expects of a network, beyond its own suite (tests/support/timm_suite.py runs that)."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models import FeatureInfo, group_parameters
from timm.optim import create_optimizer_v2
from torch import nn

import zoo
from tests.support.blocks import randomise
from zoo.registry import UnknownModelError

create: Callable[..., Any] = zoo.create_model  # networks have attributes of their own

SMALL = [
    "repvgg_tiny",
    "qarepvgg_tiny",
    "repghostnet_0.5x",
    "mobileone_s1",
    "dbb_mobilenet_v1",
    "alexnet",
    "acnet_cifar_quick",
]
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["repghostnet_1.0x", "repghostnet_0.58x", "repghostnet_norep_0.5x"])
def test_timm_accepts_names_with_a_dot(name):
    network = timm.create_model(name, num_classes=3, device="meta")
    assert network.pretrained_cfg["architecture"] == "zoo_" + name.replace(".", "_")
    assert network.num_classes == 3


def test_names_with_a_dot_change_nothing_else_in_timm():
    assert not [name for name in timm.list_models() if name.startswith("repghostnet_") and not name[13:].isdigit()]
    assert timm.is_model("repghostnet_100")
    assert type(timm.create_model("repghostnet_100", device="meta")).__module__ == "timm.models.repghost"
    with pytest.raises(UnknownModelError, match=r"'repghostnet_1\.7x': did you mean repghostnet_1"):
        timm.create_model("repghostnet_1.7x")


def test_timm_owns_no_name_of_ours():
    theirs = {name for name in timm.list_models() if not name.startswith("zoo_")}
    assert not theirs & {"zoo_" + name for name in zoo.list_models()}
    assert type(timm.create_model("resnet18", device="meta")).__module__ == "timm.models.resnet"


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("deploy", [False, True])
def test_intermediates_are_the_features_at_the_taps(name, deploy):
    network = randomise(create(name, deploy=deploy)).eval()
    with torch.no_grad():
        final, maps = network.forward_intermediates(IMAGES)
        torch.testing.assert_close(final, network.forward_features(IMAGES))
        torch.testing.assert_close(network.forward_head(final), network(IMAGES))
        info = FeatureInfo(network.feature_info, out_indices=range(len(maps)))
        assert [m.shape[1] for m in maps] == info.channels()
        early = network.forward_intermediates(IMAGES, indices=[1], stop_early=True, intermediates_only=True)
        assert len(early) == 1 and torch.equal(early[0], maps[1])
        head = network.forward_head(final, pre_logits=True)
    assert head.shape == (2, network.head_hidden_size)


@pytest.mark.parametrize("name", SMALL)
def test_a_classifier_can_be_replaced_removed_and_put_back(name):
    network = create(name, dtype=torch.float64).eval()
    network.reset_classifier(0)
    assert network(IMAGES.double()).shape == (2, network.head_hidden_size)
    network.reset_classifier(5)
    assert network(IMAGES.double()).shape == (2, 5)
    assert network.get_classifier().weight.dtype == torch.float64
    network.reset_classifier(0, "")
    assert network(IMAGES.double()).ndim == 4


@pytest.mark.parametrize("name", ["repghostnet_0.5x", "mobileone_s1"])
def test_a_pruned_network_takes_a_classifier_for_the_map_it_ends_with(name):
    network = create(name).eval()
    network.prune_intermediate_layers([1])
    width = network.feature_info[1]["num_chs"]
    assert network.num_features == network.head_hidden_size == width
    network.reset_classifier(7, "avg")
    assert network(IMAGES).shape == (2, 7)


@pytest.mark.parametrize("name", SMALL)
def test_pruning_leaves_no_parameter_without_a_gradient(name):
    network = create(name, features_only=True).train()
    sum(m.sum() for m in network(IMAGES)).backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", SMALL)
def test_checkpointed_activations_give_the_same_gradients(name):
    gradients = []
    network = create(name, drop_rate=0.0).eval()  # eval: recomputing would update statistics twice
    for enable in (False, True):
        network.zero_grad()
        network.set_grad_checkpointing(enable)
        network(IMAGES).square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("name", SMALL)
def test_layers_group_for_layer_wise_learning_rates(name):
    network = create(name, device="meta")
    groups = group_parameters(network, network.group_matcher())
    coarse = group_parameters(network, network.group_matcher(coarse=True))
    parameters = {name for name, _ in network.named_parameters()}
    assert {name for names in groups.values() for name in names} == parameters
    assert 1 < len(coarse) <= len(groups)
    assert create_optimizer_v2(network, "sgd", lr=0.1, layer_decay=0.9).param_groups


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("block", [None, "kxk*2+1x1_kxk"])
def test_the_declared_first_convs_and_classifier_exist(name, deploy, block):
    network = create(name, deploy=deploy, block=block, in_chans=5, device="meta")
    cfg = network.pretrained_cfg
    first = (cfg["first_conv"],) if isinstance(cfg["first_conv"], str) else cfg["first_conv"]
    readers = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels == 5]
    assert set(first) == {n for n in readers if not n.endswith("1x1_kxk.conv2")}
    assert isinstance(network.get_submodule(cfg["classifier"]), nn.Linear)


def test_a_converted_networks_first_convs_are_those_of_its_block():
    network = zoo.convert(timm.create_model("mobilenetv1_100", device="meta"), "acb")
    branches = ("kxk", "ver", "hor")
    assert network.pretrained_cfg["first_conv"] == tuple(f"conv_stem.branches.{branch}.conv" for branch in branches)
    assert zoo.deploy(network.eval()).pretrained_cfg["first_conv"] == "conv_stem"


def test_an_unknown_argument_is_refused():
    for name in SMALL:
        with pytest.raises(TypeError, match="not_an_argument"):
            create(name, device="meta", not_an_argument=1)


def test_frozen_weights_stay_frozen_when_a_network_is_cut_to_features():
    network = create("repghostnet_0.5x").requires_grad_(False)
    network.prune_intermediate_layers([3])
    assert not [p for p in network.parameters() if p.requires_grad]


def test_features_only_keeps_the_data_settings():
    network = create("repghostnet_0.5x", features_only=True, device="meta")
    assert network.default_cfg["interpolation"] == "bicubic" and "classifier" not in network.default_cfg


def test_features_of_a_network_without_taps_are_refused():
    with pytest.raises(ValueError, match="ResNet has no feature taps"):
        create("torchvision/resnet18", features_only=True)


@pytest.mark.parametrize("name", ["zoo_repvgg_tiny", "zoo_repghostnet_0_5x"])
def test_timms_benchmark_reparameterizes_before_eval_mode(name):
    """As its `benchmark.py --reparam` does: create, fuse, then `eval()`, and a batch of the size that it resolves."""
    network = randomise(timm.create_model(name))
    fused: Any = timm.models.reparameterize_model(network)
    assert network.training and zoo.is_deployed(fused)
    images = torch.randn((2,) + timm.data.resolve_data_config(model=fused, use_test_size=True)["input_size"])
    torch.testing.assert_close(fused.eval()(images), network.eval()(images), rtol=1e-3, atol=1e-3)
