"""More branches and training blocks: of QARepVGG, RepViT, YOLOv10, UniRepLKNet, PP-LCNetV2, ECBSR.

They join the tables of `zoo.reparam.branches`, as a block of your own would.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.reparam.algebra import AffineKernel, add, align
from zoo.reparam.branches import (
    BRANCH_SETS,
    BRANCHES,
    Branches,
    Factory,
    centred_conv,
    chain,
    conv_bn,
    kxk,
    window,
)
from zoo.reparam.fold import fold, kernel_of
from zoo.reparam.spec import ConvSpec, Pair


class Sum2d(nn.ModuleDict):
    """The sum of linear branches that read one map, for a branch that goes on after it: bn(Σ branch(x))."""

    def forward(self, x: Tensor) -> Tensor:
        outputs = [branch(x) for branch in self.values()]
        total = outputs[0]
        for other in outputs[1:]:
            total = total + other
        return total


class FixedConv2d(nn.Module):
    """A depthwise convolution, unpadded, with one given kernel times a learned scale a channel, and a learned bias.

    Scale and bias start as in ECBSR (Edge-oriented Convolution Block, ACM MM 2021, section 3.2): N(0, 0.001²).
    """

    kernel: Tensor

    def __init__(
        self,
        kernel: Sequence[Sequence[float]],
        channels: int,
        stride: Pair,
        dilation: Pair,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.taps, self.stride, self.dilation = kernel, stride, dilation
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.register_buffer("kernel", torch.empty(1, 1, len(kernel), len(kernel[0]), **factory))
        self.scale = nn.Parameter(torch.empty(channels, 1, 1, 1, **factory))
        self.bias = nn.Parameter(torch.empty(channels, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.kernel.copy_(torch.tensor([[self.taps]]))
        nn.init.normal_(self.scale, 0.0, 1e-3)
        nn.init.normal_(self.bias, 0.0, 1e-3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.scale * self.kernel
        return F.conv2d(x, weight, self.bias, self.stride, 0, self.dilation, weight.shape[0])


@fold.register
def _(layer: Sum2d, in_channels: int, device: torch.device | None = None) -> AffineKernel:
    return add(align([fold(branch, in_channels, device) for branch in layer.values()]))


@fold.register
def _(layer: FixedConv2d, in_channels: int, device: torch.device | None = None) -> AffineKernel:
    weight = layer.scale.double() * layer.kernel.double()
    return kernel_of(weight, layer.bias, stride=layer.stride, dilation=layer.dilation, groups=in_channels)


def bare_identity(spec: ConvSpec, factory: Factory) -> Branches:
    """x without BatchNorm (an ablation of RepGhost's and RepVGG's papers)."""
    if spec.in_channels != spec.out_channels or spec.stride != (1, 1):
        return {}
    return {"bare_identity": chain(**window(spec, (1, 1)), identity=nn.Identity())}


def three_by_three(spec: ConvSpec, factory: Factory) -> Branches:
    """bn(3x3(x)) beside a larger kernel."""
    return {"3x3": conv_bn(spec, (3, 3), factory)} if min(spec.kernel_size) > 3 else {}


def smaller(spec: ConvSpec, factory: Factory) -> Branches:
    """bn of every smaller kernel whose size is as odd or even as K; a 1x1 where the stride is 1."""
    branches: Branches = {}
    for size in range(min(spec.kernel_size) - 2, 0, -2):
        if size > 1 or spec.stride == (1, 1):
            branches[f"{size}x{size}"] = conv_bn(spec, (size, size), factory)
    return branches


DILATED = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}
"""K → (size, dilation) of the small kernels beside it, as UniRepLKNet's code has them."""


def dilated(spec: ConvSpec, factory: Factory) -> Branches:
    """bn of small kernels, each with a dilation so that it lies within K. Exists for square K in `DILATED`."""
    height, width = spec.kernel_size
    sizes = DILATED.get(height, ()) if height == width else ()
    return {f"{size}x{size}_{rate}": conv_bn(spec, (size, size), factory, rate) for size, rate in sizes}


def normalised_sum(
    spec: ConvSpec, factory: Factory, bias: bool = False, inner_norm: bool = True, identity: bool = True
) -> Branches:
    """bn(KxK(x) + 1x1(x) + x), the x where channels are equal and the stride is 1.

    Args:
        bias: Of the 1x1.
        inner_norm: Whether the KxK has a BatchNorm of its own.
        identity: Whether x is in the sum.
    """
    parts = kxk(spec, factory) if inner_norm else {"kxk": chain(**centred_conv(spec, spec.kernel_size, factory))}
    if spec.kernel_size != (1, 1):
        parts["1x1"] = chain(**centred_conv(spec, (1, 1), factory, bias=bias))
    summed = Sum2d(parts | (bare_identity(spec, factory) if identity else {}))
    return {"bn_sum": chain(sum=summed, bn=nn.BatchNorm2d(spec.out_channels, **factory))}


EDGES = {
    "sobel_x": ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0)),
    "sobel_y": ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0)),
    "laplace": ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0)),
}


def edge_oriented(spec: ConvSpec, factory: Factory) -> Branches:
    """KxK(x), KxK(1x1(pad(x))) with twice the channels, and where K is 3 each of `EDGES`(1x1(pad(x))); no BatchNorm.

    The paper pads the map between with the 1x1's bias; that is the 1x1 of the padded input.
    """
    geometry, before = (spec.stride, 0, spec.dilation), window(spec, spec.kernel_size)

    def pointwise_to(channels: int) -> nn.Module:
        return nn.Conv2d(spec.in_channels, channels, 1, groups=spec.groups, **factory)

    out, middle = spec.out_channels, 2 * spec.out_channels
    wide = nn.Conv2d(middle, out, spec.kernel_size, *geometry, spec.groups, **factory)
    branches: Branches = {"conv": chain(**centred_conv(spec, spec.kernel_size, factory, bias=True))}
    branches["1x1_conv"] = chain(**before, conv1=pointwise_to(middle), conv2=wide)
    for name, kernel in EDGES.items() if spec.kernel_size == (3, 3) else ():
        fixed = FixedConv2d(kernel, out, spec.stride, spec.dilation, **factory)
        branches[name] = chain(**window(spec, (3, 3)), conv=pointwise_to(out), fixed=fixed)
    return branches


BRANCHES |= {
    "bare_identity": bare_identity,
    "3x3": three_by_three,
    "smaller": smaller,
    "dilated": dilated,
    "bn_sum": normalised_sum,
    "bn_sum_bias": partial(normalised_sum, bias=True),
    "post_bn": partial(normalised_sum, inner_norm=False),  # RepVGG's table 7
    "post_bn_1x1": partial(normalised_sum, inner_norm=False, identity=False),  # DBB's table 4
    "edge": edge_oriented,
}
BRANCH_SETS |= {
    "qarepvgg": "bn_sum",  # QARepVGG, 2212.01593, figure 1; QARepVGGBlockV2 in the authors' code
    "repvit": "bn_sum_bias",  # RepViT, 2307.09283, section 3.2
    "repvggdw": "kxk+3x3",  # YOLOv10, 2405.14458, section 3.2: 7x7; the residual lies outside
    "dilated": "kxk+dilated",  # UniRepLKNet, 2311.15599, section 3.1
    "pplcnetv2": "kxk+smaller",  # PP-LCNetV2, of PaddleClas: 5x5 + 3x3 + 1x1
    "ecbsr": "edge",  # ECBSR, ACM MM 2021 (10.1145/3474085.3475291), section 3.2
}
