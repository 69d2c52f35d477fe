"""OREPA's blocks (Online Convolutional Re-parameterization, arXiv 2204.00826): branches that are folded at every step.

    block = bn(K * x),   K = Σ scale · kernel of a branch

A branch has no BatchNorm of its own but a learned scale a channel (section 3.2), so that the sum is one convolution in
training too (section 3.3): of the feature maps it keeps one, not one a branch. In eval mode its BatchNorm folds as any.
"""

# Without `from __future__ import annotations`: torch.fx writes the annotations of `forward` into the code it
# generates, and torch.jit reads that only where they are types, not strings.

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from zoo.reparam.algebra import AffineKernel
from zoo.reparam.branches import BRANCH_SETS, BRANCHES, Branches, Factory, chain, window
from zoo.reparam.fold import fold
from zoo.reparam.spec import ConvSpec, Padding

DEPTH_MULTIPLIER = 8
"""Channels of the depthwise convolution of the separable branch, per input channel."""


class OnlineConv2d(nn.Module):
    """A convolution without bias whose kernel a module without input computes anew in every forward pass.

    Args:
        spec: The convolution; zero-padded.
        kernel: () → weight (out_channels, in_channels / groups, kernel height, kernel width).
    """

    def __init__(self, spec: ConvSpec, kernel: nn.Module) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride, self.padding, self.dilation, self.groups = spec.stride, spec.padding, spec.dilation, spec.groups

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel(), None, self.stride, self.padding, self.dilation, self.groups)


@fold.register
def _(layer: OnlineConv2d, in_channels: int, device: torch.device | None = None) -> AffineKernel:
    exact = {
        name: tensor.double() for name, tensor in (*layer.kernel.named_parameters(), *layer.kernel.named_buffers())
    }
    weight = functional_call(layer.kernel, exact, ())
    (y, x) = layer.padding
    padding: Padding = (x, x, y, y)
    return AffineKernel(weight, weight.new_zeros(len(weight)), layer.stride, padding, layer.dilation, layer.groups)


class OrepaKernel(nn.Module):
    """The sum of OREPA's branches (figure 4): scale · kernel of

        weight        the K×K convolution
        average       average pooling of a 1×1
        frequency     fixed cosine filters, one a channel, behind a 1×1
        1×1-K×K       a K×K behind a 1×1 that starts as the identity
        pointwise     a 1×1, if it is not a branch of the block itself
        separable     a pointwise behind a depthwise convolution of `DEPTH_MULTIPLIER` times the channels

    Fixed filters are buffers and the scales one tensor, as in the official code, so its files load by renaming.

    Args:
        spec: The convolution that the kernel is for.
        pointwise: Whether the 1×1 is among the branches.
        slope: Of the leaky ReLU that He's uniform initialisation of all weights presumes: 0 in the official ResNets,
            1 in the official RepVGG.
    """

    average: Tensor
    frequency: Tensor
    identity: Tensor

    def __init__(self, spec: ConvSpec, pointwise: bool = True, slope: float = 0.0, **factory: Any) -> None:
        super().__init__()
        self.groups, self.slope = spec.groups, slope
        self.border = _around_centre(spec)
        out, width, size = spec.out_channels, spec.in_channels // spec.groups, spec.kernel_size
        # The official code widens what lies between in convolutions of many groups.
        middle = spec.in_channels if spec.groups <= 4 else 2 * spec.in_channels
        many = DEPTH_MULTIPLIER * width

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, **factory))

        self.weight = empty(out, width, *size)
        self.average_1x1, self.frequency_1x1 = empty(out, width, 1, 1), empty(out, width, 1, 1)
        self.mixing, self.mixed_kxk = empty(middle, width, 1, 1), empty(out, middle // spec.groups, *size)
        self.pointwise = empty(out, width, 1, 1) if pointwise else None
        self.depthwise = empty(DEPTH_MULTIPLIER * spec.in_channels, 1, *size)
        self.separable = empty(out, many, 1, 1)
        self.register_buffer("average", torch.empty(size, **factory))
        self.register_buffer("frequency", torch.empty(out, *size, **factory))
        self.register_buffer("identity", torch.empty(middle, width, 1, 1, **factory))
        # Beside an identity branch the official RepVGG has one row more than it uses.
        unused = not pointwise and spec.in_channels == spec.out_channels and spec.stride == (1, 1)
        self.scale = empty(6 if pointwise or unused else 5, out)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.ndim == 4:
                nn.init.kaiming_uniform_(parameter, a=self.slope)
        nn.init.zeros_(self.mixing)
        starts = [0.25, 0.25, 0.0, 0.5, *([1.0] if self.pointwise is not None else []), 0.5, 0.0][: len(self.scale)]
        self.scale.copy_(torch.tensor(starts)[:, None].expand_as(self.scale))
        self.average.fill_(1 / self.average.numel())
        self.frequency.copy_(cosine_filters(*self.frequency.shape))
        middle, width = self.identity.shape[:2]
        self.identity.copy_(torch.eye(width).repeat(middle // width, 1)[:, :, None, None])

    def forward(self) -> Tensor:
        kernels = [
            self.weight,
            self.average_1x1 * self.average,
            self.frequency_1x1 * self.frequency[:, None],
            self.mixed(),
        ]
        if self.pointwise is not None:
            kernels.append(F.pad(self.pointwise, self.border))
        kernels.append(self.separated())
        scale = self.scale[:, :, None, None, None]
        total = scale[0] * kernels[0]
        for index in range(1, len(kernels)):
            total = total + scale[index] * kernels[index]
        return total

    def mixed(self) -> Tensor:
        """Fold the K×K behind the 1×1: transform III."""
        groups = self.groups
        inner = (self.mixing + self.identity)[:, :, 0, 0].unflatten(0, (groups, -1))
        outer = self.mixed_kxk.unflatten(0, (groups, -1))
        return torch.einsum("gmi,gomyx->goiyx", inner, outer).flatten(0, 1)

    def separated(self) -> Tensor:
        """Fold the pointwise behind the depthwise convolution; output channels as the official code numbers them.

        There the pointwise's row n belongs to group n mod groups, not to the n-th share of the rows.
        """
        width = self.weight.shape[1]
        depthwise = self.depthwise[:, 0].unflatten(0, (self.groups, width, -1))
        pointwise = self.separable[:, :, 0, 0].unflatten(0, (-1, self.groups)).unflatten(2, (width, -1))
        return torch.einsum("gimyx,ogim->goiyx", depthwise, pointwise).flatten(0, 1)


class OrepaPointwiseKernel(nn.Module):
    """scale · 1×1 + scale · (1×1 behind a 1×1), of the second pair the smaller one starting as the identity."""

    def __init__(self, spec: ConvSpec, **factory: Any) -> None:
        super().__init__()
        out, width = spec.out_channels, spec.in_channels
        middle = min(out, width)
        self.weight = nn.Parameter(torch.empty(out, width, 1, 1, **factory))
        self.first = nn.Parameter(torch.empty(middle, width, 1, 1, **factory))
        self.second = nn.Parameter(torch.empty(out, middle, 1, 1, **factory))
        self.scale = nn.Parameter(torch.empty(2, out, **factory))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for parameter in (self.weight, self.first, self.second):
            nn.init.kaiming_uniform_(parameter, a=1.0)
        out, width = self.weight.shape[:2]
        smaller = self.first if out > width else self.second
        smaller.copy_(torch.eye(min(out, width))[:, :, None, None])
        self.scale.copy_(torch.tensor([1.0, 0.5])[:, None].expand_as(self.scale))

    def forward(self) -> Tensor:
        scale = self.scale[:, :, None, None, None]
        chained = torch.einsum("miyx,omyx->oiyx", self.first, self.second)
        return scale[0] * self.weight + scale[1] * chained


class OrepaStackKernel(nn.ModuleList):
    """A large K×K kernel as (K - 1) / 2 of 3×3 in a row, each of them an `OrepaKernel` (the stem, section 4.1).

    The official code correlates the kernels where a row of convolutions would convolve them, so each after the first
    is the mirror image of the layer it stands for. That is no restriction, as every kernel is learned.
    """

    def __init__(self, spec: ConvSpec, **factory: Any) -> None:
        first = ConvSpec(spec.in_channels, spec.out_channels, 3, padding=1)
        other = ConvSpec(spec.out_channels, spec.out_channels, 3, padding=1)
        count = (spec.kernel_size[0] - 1) // 2
        super().__init__(OrepaKernel(other if index else first, **factory) for index in range(count))

    def forward(self) -> Tensor:
        total: Tensor | None = None
        for layer in self:
            kernel = layer()
            if total is not None:
                side = total.shape[2] + 2
                patches = F.unfold(total.transpose(0, 1), 3, padding=2)
                kernel = torch.einsum("ipn,op->oin", patches, kernel.flatten(1)).unflatten(2, (side, side))
            total = kernel
        assert total is not None
        return total


def cosine_filters(channels: int, height: int, width: int) -> Tensor:
    """Fixed filters (channels, height, width), of a cosine along the rows in one half and the columns in the other.

    cos(π (y + ½) (c + 1) / height) for channel c of the first half: the frequencies of a discrete cosine transform,
    which go on rising with the channel, as in the official code (method `fre_init`); the paper's section 3.4.
    """
    rows, columns, channel = (torch.arange(n, dtype=torch.float64) for n in (height, width, channels))
    half, channel = channels / 2, channel[:, None]
    vertical = torch.cos(math.pi * (rows + 0.5) * (channel + 1) / height)[:, :, None]
    horizontal = torch.cos(math.pi * (columns + 0.5) * (channel + 1 - half) / width)[:, None, :]
    return torch.where(channel[:, :, None] < half, vertical, horizontal)


def _around_centre(spec: ConvSpec) -> Padding:
    """Zeros around a 1×1 kernel that make it one of the spec's size: it lies on the centre tap."""
    (height, width) = spec.kernel_size
    top, left = height // 2, width // 2
    return left, width - 1 - left, top, height - 1 - top


def orepa(spec: ConvSpec, factory: Factory) -> Branches:
    """bn(K * x) of folded branches: two if K is 1×1, a row of 3×3 if it is 7×7 or larger, else six.

    Raises:
        ValueError: A 1×1 convolution in groups, of which OREPA has no form.
    """
    height, width = spec.kernel_size
    if (height, width) != (1, 1):
        large = height == width and height >= 7 and height % 2 and spec.groups == 1
        return _normalised(spec, OrepaStackKernel(spec, **factory) if large else OrepaKernel(spec, **factory), factory)
    if spec.groups > 1:
        raise ValueError("OREPA has no 1x1 convolution in groups")
    before = window(spec, (1, 1), spec.stride)  # reads the subsampled map: see Window2d
    bare = ConvSpec(spec.in_channels, spec.out_channels, 1)
    return {"orepa": chain(**before, **_layers(bare, OrepaPointwiseKernel(spec, **factory), factory))}


def orepa_kxk(spec: ConvSpec, factory: Factory) -> Branches:
    """bn(K * x) of five folded branches, to stand beside a 1×1 that has a BatchNorm of its own (RepVGG's)."""
    return _normalised(spec, OrepaKernel(spec, pointwise=False, slope=1.0, **factory), factory)


def _normalised(spec: ConvSpec, kernel: nn.Module, factory: Factory) -> Branches:
    return {"orepa": chain(**_layers(spec, kernel, factory))}


def _layers(spec: ConvSpec, kernel: nn.Module, factory: Factory) -> dict[str, nn.Module]:
    return {"conv": OnlineConv2d(spec, kernel), "bn": nn.BatchNorm2d(spec.out_channels, **factory)}


BRANCHES |= {"orepa": orepa, "orepa_kxk": orepa_kxk}
BRANCH_SETS |= {
    "orepa": "orepa",  # 2204.00826, figure 4
    "orepa_repvgg": "orepa_kxk+1x1+identity",  # the same, table 4
}
