"""Blocks of other authors: outputs and gradients are those of their code, written out; and they fold."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from tests.support.blocks import fill_convs, randomise
from zoo.compare import relative_error
from zoo.reparam.branches import build_block
from zoo.reparam.spec import ConvSpec

CHANNELS = 4


def conv_bn(chain: nn.Sequential, x: Tensor, rate: int = 1) -> Tensor:
    weight = chain.conv.weight
    return chain.bn(F.conv2d(x, weight, None, 1, rate * (weight.shape[-1] // 2), rate, CHANNELS))


def qarepvgg(branches: nn.ModuleDict, x: Tensor) -> Tensor:
    """QARepVGG, class QARepVGGBlockV2, before its activation."""
    (branch,) = branches.values()
    weight = branch.sum["1x1"].conv.weight
    return branch.bn(conv_bn(branch.sum["kxk"], x) + F.conv2d(x, weight, groups=CHANNELS) + x)


def repvit(branches: nn.ModuleDict, x: Tensor) -> Tensor:
    """RepViT, class RepVGGDW."""
    (branch,) = branches.values()
    pointwise = branch.sum["1x1"].conv
    dense = conv_bn(branch.sum["kxk"], x)
    return branch.bn((dense + F.conv2d(x, pointwise.weight, pointwise.bias, groups=CHANNELS)) + x)


def post_bn(branches: nn.ModuleDict, x: Tensor) -> Tensor:
    """RepVGG's Table 7, post-addition BN, as the paper's section 4.2 says it."""
    (branch,) = branches.values()
    dense, pointwise = (branch.sum[name].conv.weight for name in ("kxk", "1x1"))
    return branch.bn(F.conv2d(x, dense, padding=1) + F.conv2d(x, pointwise) + x)


def repvggdw(branches: nn.ModuleDict, x: Tensor) -> Tensor:
    """YOLOv10, class RepVGGDW, before its activation."""
    return conv_bn(branches["kxk"], x) + conv_bn(branches["3x3"], x)


def dilated(branches: nn.ModuleDict, x: Tensor) -> Tensor:
    """UniRepLKNet, class DilatedReparamBlock with kernel_size=9."""
    out = conv_bn(branches["kxk"], x)
    for size, rate in zip([5, 5, 3, 3], [1, 2, 3, 4], strict=True):
        out = out + conv_bn(branches[f"{size}x{size}_{rate}"], x, rate)
    return out


def pplcnetv2(branches: nn.ModuleDict, x: Tensor) -> Tensor:
    """PP-LCNetV2, class RepDepthwiseSeparable with dw_size=5."""
    return conv_bn(branches["kxk"], x) + conv_bn(branches["3x3"], x) + conv_bn(branches["1x1"], x)


def ecbsr(branches: nn.ModuleDict, x: Tensor) -> Tensor:
    """ECBSR, class ECB without identity, before its activation."""

    def bordered(conv: nn.Conv2d) -> Tensor:
        assert conv.bias is not None
        inner = F.pad(F.conv2d(x, conv.weight, conv.bias), (1, 1, 1, 1))
        border = F.pad(torch.zeros_like(x[:, :1]), (1, 1, 1, 1), value=1.0)
        return inner + border * conv.bias[:, None, None]

    kernels = {
        "sobel_x": [[1, 0, -1], [2, 0, -2], [1, 0, -1]],
        "sobel_y": [[1, 2, 1], [0, 0, 0], [-1, -2, -1]],
        "laplace": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
    }
    plain, wide = branches["conv"].conv, branches["1x1_conv"]
    out = F.conv2d(x, plain.weight, plain.bias, padding=1)
    out = out + F.conv2d(bordered(wide.conv1), wide.conv2.weight, wide.conv2.bias)
    for name, kernel in kernels.items():
        fixed = branches[name].fixed
        weight = fixed.scale * torch.tensor(kernel, dtype=x.dtype)
        out = out + F.conv2d(bordered(branches[name].conv), weight, fixed.bias, groups=CHANNELS)
    return out


@pytest.mark.parametrize(
    ("official", "size", "groups"),
    [
        (qarepvgg, 3, CHANNELS),
        (repvit, 3, CHANNELS),
        (repvggdw, 7, CHANNELS),
        (dilated, 9, CHANNELS),
        (pplcnetv2, 5, CHANNELS),
        (ecbsr, 3, 1),
        (post_bn, 3, 1),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_block_computes_and_learns_as_its_authors_code(official, size, groups):
    torch.manual_seed(0)
    spec = ConvSpec(CHANNELS, CHANNELS, size, padding=size // 2, groups=groups)
    block = fill_convs(randomise(build_block(spec, official.__name__))).double().train()
    x = torch.randn(3, CHANNELS, 12, 11, dtype=torch.float64)
    ours, theirs = block(x), official(block.branches, x)
    assert relative_error(ours, theirs) <= 1e-12
    mine, other = (
        torch.cat([g.flatten() for g in torch.autograd.grad(y.square().sum(), [*block.parameters()])])
        for y in (ours, theirs)
    )
    assert relative_error(mine, other) <= 1e-9
    with torch.no_grad():
        assert relative_error(block.eval().fuse()(x), block(x)) <= 1e-12


@pytest.mark.parametrize(
    ("block", "size"),
    [("qarepvgg", 3), ("repvit", 3), ("repvggdw", 5), ("dilated", 5), ("pplcnetv2", 5), ("ecbsr", 3)],
)
def test_a_network_is_converted_and_deployed_with_it(block, size):
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 6, size, 2, size // 2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, size, groups=6),
    )
    images = torch.randn(2, 3, 16, 16)
    model = randomise(zoo.convert(nn.Sequential(*layers), block, example=images)).eval()
    deployed, report = zoo.deploy_with_report(model, images)
    assert len(report.blocks) == 2 and all(proof.relative_error <= 1e-12 for proof in report.blocks)
    assert [type(layer) for layer in deployed if not isinstance(layer, nn.Identity)] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
