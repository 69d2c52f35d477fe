"""CIFAR's networks of ACNet's and DBB's tables; their outputs are compared in tests/checkpoints/test_acnet.py."""

from collections import Counter

import pytest
import torch
from torch import nn

import zoo
from tests.support.catalog import costs
from zoo.reparam.block import MultiBranchConv2d

# Parameters of the official networks, plain and with ACB, counted.
PARAMETERS = {
    "cifar_quick": (117034, 149226),
    "vgg16_cifar10": (14986698, 24810570),
    "resnet56": (855770, 1429434),
    "wrn_16_8": (10962170, 18172538),
}
BLOCKS = {"cifar_quick": 3, "vgg16_cifar10": 13, "resnet56": 55, "wrn_16_8": 13}


@pytest.mark.parametrize("name", PARAMETERS)
def test_they_have_the_official_parameters_and_deploy_to_one_kernels_work(name):
    (plain, deployed), macs = costs(name)
    (acb, deployed_acb), macs_acb = costs(f"acnet_{name}")
    assert (plain, acb) == PARAMETERS[name]
    # The plain WRN's first convolution, and those before a sum, have no BatchNorm, and so no bias.
    assert deployed_acb - deployed == (16 + 2 * (128 + 256 + 512) if name == "wrn_16_8" else 0)
    assert macs[0] == macs[1] == macs_acb[1] < macs_acb[0]


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_kxk_is_a_block_and_the_shortcuts_1x1_is_none(name):
    network = zoo.create_model(f"acnet_{name}", device="meta")
    blocks = [module for module in network.modules() if isinstance(module, MultiBranchConv2d)]
    assert len(blocks) == BLOCKS[name] and {"+".join(block.branches) for block in blocks} == {"kxk+ver+hor"}
    inside = {id(module) for block in blocks for module in block.modules()}
    outside = [m for m in network.modules() if isinstance(m, nn.Conv2d) and id(m) not in inside]
    assert [m.kernel_size for m in outside] == [(1, 1)] * {"resnet56": 2, "wrn_16_8": 3}.get(name, 0)


def test_branches_start_at_the_scale_that_the_recipe_gives_and_those_of_wrn_only_in_the_stem():
    scales = {}
    for name in ("cifar_quick", "wrn_16_8"):
        network = zoo.create_model(f"acnet_{name}", init_gamma=0.333)
        norms = {n: m for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
        small = [n for n, m in norms.items() if torch.equal(m.weight, torch.full_like(m.weight, 0.333))]
        scales[name] = Counter(n.split(".")[0] for n in small), len(norms)
    assert scales == {"cifar_quick": (Counter(stem=3, stages=6), 9), "wrn_16_8": (Counter(stem=3), 3 + 12 * 3 + 16)}


def test_classes_and_images_are_cifars():
    assert (
        zoo.create_model("dbb_vgg16_cifar100", device="meta")(torch.empty(1, 3, 32, 32, device="meta")).shape[1] == 100
    )
    for name in ("acnet_resnet56", "vgg16_cifar10"):
        cfg = zoo.create_model(name, device="meta").pretrained_cfg
        assert (cfg["input_size"], cfg["num_classes"], cfg["crop_pct"]) == ((3, 32, 32), 10, 1.0)
