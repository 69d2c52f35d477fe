"""OREPA's blocks: outputs, gradients and statistics are those of the official code, written out; and they fold."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from tests.support.blocks import randomise
from zoo.compare import relative_error
from zoo.reparam.branches import build_block
from zoo.reparam.orepa import OrepaKernel
from zoo.reparam.spec import ConvSpec

Weights = dict[str, Tensor]


def prior(channel: int, channels: int, y: int, x: int) -> float:
    """`fre_init` of the official code."""
    half = channels / 2
    if channel < half:
        return math.cos(math.pi * (y + 0.5) * (channel + 1) / 3)
    return math.cos(math.pi * (x + 0.5) * (channel + 1 - half) / 3)


def kxk_kernel(weights: Weights, groups: int) -> Tensor:
    """`weight_gen` of the official OREPA and OREPA_3x3_RepVGG as loops over output and input channels."""
    out, width, height, columns = weights["weight"].shape
    share, taps = out // groups, height * columns
    first = weights["mixing"].clone()
    for row in range(len(first)):
        first[row, row % width] += 1
    middle = len(first) // groups
    kernel = torch.zeros_like(weights["weight"])
    last = 5 if "pointwise" in weights else 4
    for o in range(out):
        group, within = o // share, o % share
        scale = weights["scale"][:, o]
        for i in range(width):
            fixed = weights["average_1x1"].new_tensor([[prior(o, out, y, x) for x in range(3)] for y in range(3)])
            total = scale[0] * weights["weight"][o, i]
            total = total + scale[1] * weights["average_1x1"][o, i, 0, 0] / taps
            total = total + scale[2] * weights["frequency_1x1"][o, i, 0, 0] * fixed
            rows = first[group * middle : (group + 1) * middle, i, 0, 0]
            total = total + scale[3] * (rows[:, None, None] * weights["mixed_kxk"][o]).sum(0)
            if "pointwise" in weights:
                total = total + scale[4] * F.pad(weights["pointwise"][o, i], (1, 1, 1, 1))
            of_input = slice(8 * (group * width + i), 8 * (group * width + i + 1))
            depthwise = weights["depthwise"][of_input, 0]
            mixed = weights["separable"][within * groups + group, 8 * i : 8 * (i + 1), 0, 0]
            kernel[o, i] = total + scale[last] * (mixed[:, None, None] * depthwise).sum(0)
    return kernel


def pointwise_kernel(weights: Weights, groups: int) -> Tensor:
    """`weight_gen` of the official OREPA_1x1."""
    chained = (weights["second"][:, :, 0, 0] @ weights["first"][:, :, 0, 0])[:, :, None, None]
    scale = weights["scale"][:, :, None, None, None]
    return scale[0] * weights["weight"] + scale[1] * chained


def stacked_kernel(weights: Weights, groups: int) -> Tensor:
    """`weight_gen` of the official OREPA_LargeConv."""
    parts = [{k[2:]: v for k, v in weights.items() if k.startswith(f"{i}.")} for i in range(3)]
    kernel = kxk_kernel(parts[0], 1).transpose(0, 1)
    for part in parts[1:]:
        kernel = F.conv2d(kernel, kxk_kernel(part, 1), padding=2)
    return kernel.transpose(0, 1)


def block_of(spec: ConvSpec, name: str) -> nn.Module:
    torch.manual_seed(0)
    block = randomise(build_block(spec, name, dtype=torch.float64)).train()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return block


@pytest.mark.parametrize(
    ("spec", "name", "official"),
    [
        (ConvSpec(4, 6, 3, 2, 1), "orepa", kxk_kernel),
        (ConvSpec(4, 4, 3, 1, 1), "orepa_kxk", kxk_kernel),
        (ConvSpec(4, 8, 3, 1, 1, groups=2), "orepa", kxk_kernel),
        (ConvSpec(10, 10, 3, 1, 1, groups=5), "orepa", kxk_kernel),
        (ConvSpec(6, 6, 3, 1, 1, groups=6), "orepa", kxk_kernel),
        (ConvSpec(4, 6, 1, 2), "orepa", pointwise_kernel),
        (ConvSpec(6, 4, 1), "orepa", pointwise_kernel),
        (ConvSpec(3, 4, 7, 2, 3), "orepa", stacked_kernel),
    ],
)
def test_a_block_computes_and_learns_as_the_official_code(
    spec: ConvSpec, name: str, official: Callable[[Weights, int], Tensor]
):
    block = block_of(spec, name)
    branch = block.get_submodule("branches.orepa")
    prefix = "branches.orepa.conv.kernel."
    weights = {key.removeprefix(prefix): p for key, p in block.named_parameters() if key.startswith(prefix)}
    norm, twin = branch.get_submodule("bn"), nn.BatchNorm2d(spec.out_channels).double()
    twin.load_state_dict(norm.state_dict())
    x = torch.randn(3, spec.in_channels, 12, 11, dtype=torch.float64)
    ours = block(x)
    convolved = F.conv2d(x, official(weights, spec.groups), None, spec.stride, spec.padding, 1, spec.groups)
    theirs = twin(convolved)
    assert relative_error(ours, theirs) <= 1e-12
    probe = torch.randn_like(ours)
    mine, other = (torch.autograd.grad((y * probe).sum(), list(weights.values())) for y in (ours, theirs))
    for key, a, b in zip(weights, mine, other, strict=True):
        assert b.abs().max() > 0, key
        assert relative_error(a, b) <= 1e-7, key
    assert relative_error(norm.running_var, twin.running_var) <= 1e-12
    with torch.no_grad():
        assert relative_error(block.eval().fuse()(x), block(x)) <= 1e-12


def test_it_starts_as_the_official_code_does():
    torch.manual_seed(0)
    kernel = OrepaKernel(ConvSpec(64, 64, 3, padding=1))
    assert kernel.scale[:, 0].tolist() == [0.25, 0.25, 0.0, 0.5, 1.0, 0.5]
    assert not kernel.mixing.any()
    for name, fan_in in (
        ("weight", 576),
        ("average_1x1", 64),
        ("mixed_kxk", 576),
        ("depthwise", 9),
        ("separable", 512),
    ):
        weight = kernel.get_parameter(name)
        bound = math.sqrt(6 / fan_in)  # He's uniform initialisation, slope 0
        assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    beside = OrepaKernel(ConvSpec(64, 64, 3, padding=1), pointwise=False, slope=1.0)
    assert beside.scale[:, 0].tolist() == [0.25, 0.25, 0.0, 0.5, 0.5, 0.0]
    assert beside.weight.abs().max() <= math.sqrt(3 / 576)
    pointwise = build_block(ConvSpec(4, 6, 1), "orepa").get_submodule("branches.orepa.conv.kernel")
    assert pointwise.get_parameter("first")[:, :, 0, 0].equal(torch.eye(4))
    assert pointwise.get_parameter("scale")[:, 0].tolist() == [1.0, 0.5]


def test_a_network_is_converted_and_deployed_with_it():
    layers = (
        nn.Conv2d(3, 6, 7, 2, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, 1, 1, groups=6),
        nn.Conv2d(6, 4, 1, bias=False),
        nn.BatchNorm2d(4),
    )
    images = torch.randn(2, 3, 16, 16)
    network = randomise(zoo.convert(nn.Sequential(*layers), "orepa", lambda *_: True, example=images)).eval()
    deployed, report = zoo.deploy_with_report(network, images)
    assert len(report.blocks) == 3 and all(proof.relative_error <= 1e-12 for proof in report.blocks)
    assert relative_error(deployed(images), network(images)) <= 1e-5


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="no 1x1 convolution in groups"):
        build_block(ConvSpec(4, 4, 1, groups=2), "orepa")
    with pytest.raises(ValueError, match="has no 'kxk' branch"):
        zoo.expand(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), "orepa", example=torch.randn(2, 3, 8, 8)
        )
