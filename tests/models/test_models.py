"""Every registered network: built, trained and deployed; the small ones for real, all of them on the meta device."""

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import zoo
from tests.support.blocks import randomise
from tests.support.catalog import costs
from tests.support.processes import run_apart
from zoo.cost import count
from zoo.network import input_size
from zoo.reparam.block import MultiBranchConv2d

create: Callable[..., Any] = zoo.create_model  # networks have attributes of their own

NAMES = zoo.list_models()
# Networks that differ only in width, depth or the number of groups or classes from one that is not here.
SIZES = re.compile(
    r"(qa|orepa_)?repvgg_(a[12]|b\d|b1g2|b[23]g[24])|mobileone_s[23]|repghostnet_(0\.58|0\.8|[12]\.\d+)x"
    r"|\w*resnet(34|101)|\w*vgg16_cifar100"
)
KINDS = [name for name in NAMES if not SIZES.fullmatch(name)]
# The smallest of each family and kind of block.
SMALL = (
    "repvgg_tiny",
    "qarepvgg_tiny",
    "repghostnet_0.5x",
    "repghostnet_repid_0.5x",
    "mobileone_s0",
    "acnet_resnet18",
    "acnet_cifar_quick",
    "mobilenet_v1",
    "acnet_mobilenet_v1",
    "dbb_mobilenet_v1",
    "yolov7_backbone_rep",
    "orepa_resnet18",
)
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def scale_and_shift(x, running_mean, running_var, weight=None, bias=None, *args, **kwargs):
    return x.clone() if weight is None or bias is None else x * weight[:, None, None] + bias[:, None, None]


class AffineNorms(TorchFunctionMode):
    """BatchNorm on the meta device is a scale and a shift: torch's own is Python there, and slow."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        norm = func is F.batch_norm and isinstance(args[0], Tensor) and args[0].is_meta
        return (scale_and_shift if norm else func)(*args, **(kwargs or {}))


@functools.cache
def on_meta(name: str) -> nn.Module:
    return zoo.create_model(name, device="meta")


@pytest.mark.parametrize("name", KINDS)
def test_a_network_is_built_and_deployed_without_memory(name):
    network = on_meta(name).eval()
    deployed, report = zoo.deploy_with_report(network)
    for structure in (network, deployed):
        tensors = [*structure.parameters(), *structure.buffers()]
        assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert zoo.is_deployed(deployed)
    blocks = [m for m in network.modules() if isinstance(m, MultiBranchConv2d)]
    assert len(report.blocks) == len(blocks)
    assert (report.params, report.macs) == costs(name), f"zoo list {name} --count --json shows the row for catalog.json"
    left = [n for n, m in deployed.named_modules() if isinstance(m, nn.BatchNorm2d)]
    # DenseNet and WRN normalise before they convolve: what is concatenated, added or read twice cannot be folded.
    assert len(left) == (62 if name.endswith("densenet121") else 10 if name.endswith("wrn_16_8") else 0)


@pytest.mark.parametrize("name", [n for n in NAMES if SIZES.fullmatch(n)])
def test_a_network_of_another_size_costs_what_the_catalog_says(name):
    """A convolution and its BatchNorm outside the blocks become one with a bias: of two parameters a channel, one."""
    network = on_meta(name).eval()
    deployed = zoo.deploy(network, fold_regions=False)
    before, after = (count(structure, input_size(network)) for structure in (network, deployed))
    folded = sum(norm.num_features for norm in deployed.modules() if isinstance(norm, nn.BatchNorm2d))
    assert ((before.params, after.params - folded), (before.macs, after.macs)) == costs(name)


@pytest.mark.parametrize("name", [n for n in KINDS if not n.startswith("repvggplus")])
def test_every_parameter_gets_a_gradient(name):
    network = on_meta(name).train()
    with AffineNorms():
        network(torch.empty(2, 3, 64, 64, device="meta")).sum().backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None]
    network.eval().zero_grad()


@pytest.mark.parametrize("name", SMALL)
def test_a_training_step_lowers_the_loss(name):
    torch.manual_seed(0)
    network = zoo.create_model(name, num_classes=2, drop_rate=0.0).double().train()
    # So small, and in float64, that the gradient alone decides: a batch of two makes BatchNorm's curvature huge.
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-8)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.0  # DBB pads with running statistics, which would move between the two passes
    losses = []
    for _ in range(2):
        loss = nn.functional.cross_entropy(network(IMAGES.double()), torch.tensor([0, 1]))
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", [*SMALL, "dbb_alexnet"])
def test_a_network_deploys_with_proof_and_its_weights_load_strictly(name):
    network = randomise(zoo.create_model(name)).eval()
    deployed, report = zoo.deploy_with_report(network, IMAGES)
    assert all(block.relative_error <= 1e-9 for block in report.blocks)
    assert report.relative_error <= 10 * max(report.noise_floor, torch.finfo(torch.float32).eps)
    again = zoo.create_model(name, deploy=True, device="meta")
    again.load_state_dict(deployed.state_dict(), strict=True, assign=True)
    with torch.no_grad():
        assert torch.equal(again.eval()(IMAGES), deployed(IMAGES))


@pytest.mark.parametrize(
    "dtype, tolerance, name",
    [
        (torch.bfloat16, 0.06, "repghostnet_0.5x"),
        (torch.bfloat16, 0.06, "mobileone_s1"),
        (torch.bfloat16, 0.06, "dbb_mobilenet_v1"),
        (torch.float16, 0.008, "repghostnet_0.5x"),
    ],
)
def test_half_precision_networks_deploy_in_their_dtype(name, dtype, tolerance):
    network = randomise(zoo.create_model(name)).eval()
    with torch.no_grad():
        exact = network(IMAGES)
        deployed = zoo.deploy(network.to(dtype), IMAGES.to(dtype), verify=False)
        assert {p.dtype for p in deployed.parameters()} == {dtype}
        got = deployed(IMAGES.to(dtype)).float()
    assert (got - exact).norm() / exact.norm() < tolerance


@pytest.mark.parametrize("name", ["repghostnet_0.5x", "mobileone_s0", "acnet_resnet18", "dbb_mobilenet_v1"])
def test_dtype_and_channels_are_those_asked_for(name):
    network = zoo.create_model(name, device="meta", dtype=torch.bfloat16, in_chans=1, num_classes=7, deploy=True)
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert network(torch.empty(1, 1, 64, 64, device="meta", dtype=torch.bfloat16)).shape == (1, 7)


def train_in_channels_last(name: str) -> None:
    torch.manual_seed(0)
    network = create(name, num_classes=4).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(3):
        images = torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
        optimiser.zero_grad()
        network(images).logsumexp(1).mean().backward()
        optimiser.step()
    assert all(p.isfinite().all() for p in network.parameters())
    print("trained")


@pytest.mark.parametrize("name", ["repvgg_tiny", "mobileone_s1", "dbb_mobilenet_v1"])
def test_training_in_channels_last_does_not_corrupt_the_heap(name):
    """oneDNN, float32: weight gradients of strided 1x1 convolutions with few input channels, as in every stem."""
    done = run_apart(train_in_channels_last, name)
    assert (done.code, done.stdout.strip()) == (0, "trained"), done.stderr
