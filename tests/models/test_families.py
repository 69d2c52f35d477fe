"""What is particular to a family: structure by the papers, costs by their tables, taps, dilation, ablations."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn

import zoo
from tests.support.catalog import costs
from zoo.models.repghostnet import RepGhostBottleneck
from zoo.models.repvgg import VARIANTS, RepVGG
from zoo.models.repvggplus import RepVGGPlus
from zoo.reparam.block import MultiBranchConv2d

create: Callable[..., Any] = zoo.create_model  # networks have attributes of their own


def block_sets(network: nn.Module) -> set[str]:
    return {"+".join(m.branches) for m in network.modules() if isinstance(m, MultiBranchConv2d)}


def taps(name: str, **kwargs) -> list[tuple[int, int]]:
    """(channels, stride) of every feature map of an image of 224 pixels."""
    network = zoo.create_model(name, features_only=True, device="meta", **kwargs)
    maps = network(torch.empty(1, 3, 224, 224, device="meta"))
    assert [m.shape[1] for m in maps] == network.feature_info.channels()
    assert [-(-224 // m.shape[2]) for m in maps] == network.feature_info.reduction()
    return [(m.shape[1], 224 // m.shape[2]) for m in maps]


# Computed from the official configs: MMACs of the deployed network, parameters in training structure (timm's too).
REPGHOST = {
    "0.5x": (43.31, 2313968),
    "0.58x": (59.80, 2546388),
    "0.8x": (95.52, 3278968),
    "1.0x": (142.39, 4073604),
    "1.11x": (170.12, 4539984),
    "1.3x": (231.12, 5478612),
    "1.5x": (301.32, 6575336),
    "2.0x": (515.87, 9796124),
}
# Parameters in training structure as timm has them; MMACs deployed, S0 as computed from the official code.
MOBILEONE = {"s0": (5293272, 275.11), "s1": (4825192, 825.06), "s2": (7884648, 1298.43), "s3": (10170600, 1895.79)}


# Parameters of the official training structures, counted.
OREPA = [
    ("orepa_resnet18", "resnet18", 37756041),
    ("orepa_resnet50", "resnet50", 68579977),
    ("orepa_repvgg_a0", "repvgg_a0", 24754137),
]


@pytest.mark.parametrize("width", REPGHOST)
def test_repghostnet_costs_what_the_official_network_does(width):
    macs, params = REPGHOST[width]
    listed = costs(f"repghostnet_{width}")
    assert (round(listed[1][1] / 1e6, 2), listed[0][0]) == (macs, params)


@pytest.mark.parametrize("size", MOBILEONE)
def test_mobileone_costs_what_the_official_network_does(size):
    params, macs = MOBILEONE[size]
    listed = costs(f"mobileone_{size}")
    assert (listed[0][0], round(listed[1][1] / 1e6, 2)) == (params, macs)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v1", "alexnet"])
def test_a_converted_network_deploys_to_what_its_plain_twin_deploys_to(name):
    plain = costs(name)
    for block in ("acnet", "dbb"):
        params, macs = costs(f"{block}_{name}")
        assert params[0] > plain[0][0] and macs[0] > plain[1][0]
        assert (params[1], macs[1]) == (plain[0][1], plain[1][1])


@pytest.mark.parametrize(
    "name, expected",
    [
        ("repghostnet_1.0x", [(16, 2), (24, 4), (40, 8), (112, 16), (160, 32)]),
        ("mobileone_s1", [(64, 2), (96, 4), (192, 8), (512, 16), (1280, 32)]),
        ("acnet_resnet18", [(64, 2), (64, 4), (128, 8), (256, 16), (512, 32)]),
        ("dbb_mobilenet_v1", [(64, 2), (128, 4), (256, 8), (512, 16), (1024, 32)]),
        ("yolov7_backbone_rep", [(64, 2), (256, 4), (512, 8), (1024, 16), (1024, 32)]),
        ("yolov7", [(256, 8), (512, 16), (1024, 32)]),
        ("yolov7x", [(320, 8), (640, 16), (1280, 32)]),
    ],
)
@pytest.mark.parametrize("deploy", [False, True])
def test_feature_maps_are_stage_outputs_in_both_structures(name, expected, deploy):
    assert taps(name, deploy=deploy) == expected


def test_alexnets_taps_are_the_maps_before_each_pooling():
    network = zoo.create_model("alexnet", features_only=True, device="meta")
    maps = network(torch.empty(1, 3, 224, 224, device="meta"))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 55, 55), (192, 27, 27), (256, 13, 13)]


@pytest.mark.parametrize(
    "name, output_stride",
    [
        ("repghostnet_0.5x", 8),
        ("repghostnet_0.5x", 16),
        ("mobileone_s1", 8),
        ("acnet_resnet18", 8),
        ("mobilenet_v1", 16),
    ],
)
def test_output_stride_is_kept_by_both_structures(name, output_stride):
    strides = [min(stride, output_stride) for stride in (2, 4, 8, 16, 32)]
    for deploy in (False, True):
        assert [stride for _, stride in taps(name, output_stride=output_stride, deploy=deploy)] == strides


@pytest.mark.parametrize("block", ["repvgg", "mobileone", "kxk+1x1+identity"])
def test_repvggs_first_block_of_a_stage_has_no_identity_even_if_dilated(block):
    variant = dataclasses.replace(VARIANTS["repvgg_tiny"], a=1, b=0.5)  # the last stage is as wide as the one before
    network = RepVGG(variant, block=block, output_stride=4)
    units = [*network.stages[2], *network.stages[3]]
    assert {(unit.conv.spec.in_channels, unit.conv.spec.stride) for unit in units[1:]} == {(256, (1, 1))}
    assert ["identity" in unit.conv.branches for unit in units] == [False, True, True, False]


@pytest.mark.parametrize("output_stride", [8, 32])
def test_qarepvgg_is_repvgg_with_x_in_every_block_but_a_stages_first(output_stride):
    names = [name for name in zoo.list_models(module="QARepVGG") if name != "qarepvgg_tiny"]
    assert len(names) == 10
    for name in names:
        network = create(name, output_stride=output_stride, device="meta")
        assert block_sets(network) == {"bn_sum"}
        for stage in ([network.stem], *network.stages):
            assert ["bare_identity" in unit.conv.branches["bn_sum"].sum for unit in stage] == [
                False,
                *[True] * (len(stage) - 1),
            ]
        assert [deployed for _, deployed in costs(name)] == [deployed for _, deployed in costs(name[2:])]


def test_repvggplus_recomputes_activations_in_training_and_gives_the_same_gradients():
    torch.manual_seed(0)
    variant = dataclasses.replace(VARIANTS["repvgg_tiny"], a=0.125, b=0.125)
    network = RepVGGPlus(variant, num_classes=3).double().train()
    runs = []
    network.stages[2][0].register_forward_pre_hook(lambda *_: runs.append(1))
    images, gradients = torch.randn(2, 3, 32, 32, dtype=torch.float64), []
    for enable, expected in ((False, 1), (True, 2)):
        network.set_grad_checkpointing(enable)
        network.zero_grad()
        runs.clear()
        sum(output.square().sum() for output in network(images)).backward()
        assert len(runs) == expected
        gradients.append(network.stages[0][0].conv.branches["kxk"].conv.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)


def test_repvggplus_resets_its_auxiliary_classifiers_and_nothing_else_of_them():
    variant = dataclasses.replace(VARIANTS["repvgg_tiny"], a=0.125, b=0.125)
    network = RepVGGPlus(variant, num_classes=3).double().eval().requires_grad_(False)
    before = network.aux_heads[0][0].weight.clone()
    network.reset_classifier(5)
    assert torch.equal(network.aux_heads[0][0].weight, before)
    assert [head[-1].fc.weight.shape[0] for head in network.aux_heads] == [5, 5, 5]
    assert not any(module.training for module in network.modules())
    assert all(parameter.dtype is torch.float64 for parameter in network.parameters())
    assert [output.shape for output in network.train()(torch.randn(2, 3, 32, 32).double())] == [(2, 5)] * 4
    network.prune_intermediate_layers([0])
    assert len(network.aux_heads) == 0


def test_repghost_uses_the_large_kernel_only_where_strided_or_in_a_shortcut():
    kernels = {}
    network = zoo.create_model("repghostnet_1.0x", device="meta")
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size[0] == 5:
            kernels[name] = module.stride[0]
    assert kernels == {
        "stages.1.0.downsample.conv": 2,
        "stages.1.0.shortcut.depthwise.conv": 2,
        "stages.3.0.downsample.conv": 2,
        "stages.3.0.shortcut.depthwise.conv": 2,
    }


def test_repghosts_ablations_differ_only_where_they_should():
    networks = {n: zoo.create_model(f"repghostnet_{n}0.5x", device="meta") for n in ("", "repid_", "norep_", "wo_")}
    assert {n: block_sets(network) for n, network in networks.items()} == {
        "": {"kxk+identity"},
        "repid_": {"kxk+bare_identity"},
        "norep_": {"kxk"},
        "wo_": {"kxk+identity"},
    }
    shortcuts = {
        n: [m.shortcut is not None for m in network.modules() if isinstance(m, RepGhostBottleneck)]
        for n, network in networks.items()
    }
    assert all(shortcuts[""]) and all(shortcuts["repid_"]) and all(shortcuts["norep_"])
    # Without the identity; the six bottlenecks that change the shape keep their convolutions.
    assert shortcuts["wo_"].count(True) == 5 and shortcuts["wo_"].count(False) == 11


def test_mobileone_has_four_kxk_branches_in_s0_only_and_se_in_s4_only():
    s0, s4 = (zoo.create_model(f"mobileone_{n}", device="meta") for n in ("s0", "s4"))
    assert block_sets(s0.stages[1]) == {
        "kxk+kxk_2+kxk_3+kxk_4+1x1",
        "kxk+kxk_2+kxk_3+kxk_4+1x1+identity",
        "kxk+kxk_2+kxk_3+kxk_4",
        "kxk+kxk_2+kxk_3+kxk_4+identity",
    }
    assert block_sets(s0.stem) == {"kxk+1x1"}
    se = [n for n, m in s4.named_modules() if n.endswith(".se") and not isinstance(m, nn.Identity)]
    assert se == [f"stages.2.{i}.se" for i in range(10, 20)] + ["stages.3.0.se", "stages.3.1.se"]
    assert not [n for n, m in s0.named_modules() if n.endswith(".se") and not isinstance(m, nn.Identity)]


def test_the_papers_mobilenet_has_relu_and_a_block_for_its_stem():
    network = zoo.create_model("dbb_mobilenet_v1", device="meta")
    assert not [m for m in network.modules() if isinstance(m, nn.ReLU6)]
    assert list(network.conv_stem.branches) == ["kxk", "1x1", "avg", "1x1_kxk"]
    depthwise = network.blocks[0][0].conv_dw
    assert list(depthwise.branches) == ["kxk", "avg", "1x1_kxk"]  # no 1x1 where depthwise
    assert depthwise.branches["1x1_kxk"].conv1.out_channels == 64  # twice the channels
    assert isinstance(network.blocks[0][0].conv_pw, nn.Conv2d)


def test_resnet_keeps_its_stem_and_1x1_plain_and_strides_in_the_3x3():
    network = zoo.create_model("acnet_resnet50", device="meta")
    blocks = [n for n, m in network.named_modules() if isinstance(m, MultiBranchConv2d)]
    assert len(blocks) == 16 and all(n.endswith("conv2") for n in blocks)
    assert network.layer2[0].conv2.spec.stride == (2, 2)
    assert isinstance(network.conv1, nn.Conv2d)
    assert block_sets(network) == {"kxk+ver+hor"}


@pytest.mark.parametrize("name, plain, published", OREPA)
def test_orepas_networks_have_the_official_parameters_and_one_kernels_work(name, plain, published):
    (params, deployed), macs = costs(name)
    assert (params, deployed) == (published, costs(plain)[0][1])
    assert macs[1] == costs(plain)[1][1]


def test_orepa_replaces_every_convolution_but_the_shortcuts_of_basic_blocks():
    left = {
        name: [n for n, m in create(name, device="meta").named_modules() if isinstance(m, nn.Conv2d)]
        for name in ("orepa_resnet18", "orepa_resnet50")
    }
    assert left == {"orepa_resnet18": [f"layer{i}.0.downsample.0" for i in (2, 3, 4)], "orepa_resnet50": []}


def test_every_batchnorm_starts_at_scale_1_as_in_the_papers():
    network = zoo.create_model("resnet18")
    assert all(bool((m.weight == 1).all()) for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def test_alexnet_has_the_papers_widths_and_a_batchnorm_after_every_convolution():
    network = zoo.create_model("alexnet", device="meta")
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0], c.padding[0]) for c in convs] == [
        (64, 11, 4, 2),
        (192, 5, 1, 2),
        (384, 3, 1, 1),
        (384, 3, 1, 1),
        (256, 3, 1, 1),
    ]
    assert [m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)] == [64, 192, 384, 384, 256]
    linears = [m for m in network.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(9216, 4096), (4096, 4096), (4096, 1000)]


def test_deployed_converted_networks_have_timms_module_names():
    for name, twin in (("dbb_resnet50", "resnet50"), ("acnet_mobilenet_v1", "mobilenetv1_100")):
        deployed = zoo.create_model(name, deploy=True, device="meta")
        weights = {k for k in deployed.state_dict() if k.endswith(".weight")}
        theirs = timm.create_model(twin, device="meta").state_dict()
        assert weights == {k for k in theirs if k.endswith(".weight") and theirs[k].ndim > 1}


@pytest.mark.parametrize("name", ["dbb_resnet18", "acnet_mobilenet_v1", "mobileone_s1"])
def test_an_output_stride_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match="output_stride=7"):
        create(name, output_stride=7, device="meta")


def test_without_branches_a_converted_network_is_its_plain_twin():
    network = create("dbb_resnet18", block="plain", device="meta")
    assert network.state_dict().keys() == create("resnet18", device="meta").state_dict().keys()


def test_the_block_can_be_chosen_for_every_family():
    for name in ("repvgg_tiny", "repghostnet_0.5x", "acnet_resnet18", "resnet18", "yolov7_backbone"):
        assert "kxk+kxk_2" in block_sets(zoo.create_model(name, block="kxk*2", device="meta"))
