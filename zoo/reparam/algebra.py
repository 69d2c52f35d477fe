"""The algebra of structural re-parameterization: convolutions as values.

A branch of a re-parameterizable block is a chain of linear layers, so it *is* one convolution with a bias: an
`AffineKernel`. Chains compose, branches add. The six transforms are those of Diverse Branch Block (arXiv 2103.13425,
section 3.2), of which RepVGG (arXiv 2101.03697) and ACNet (arXiv 1908.03930) use I, II and VI:

    I    conv, then BatchNorm             compose(conv, per_channel(scale, shift))
    II   sum of branches                  add
    III  1x1, then KxK                    compose
    IV   depth concatenation              concatenate
    V    average pooling                  average
    VI   smaller kernel inside a larger   embed

All functions are pure, differentiable and keep the dtype they are given; `fold` calls them in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]
"""(left, right, top, bottom), the order of `torch.nn.functional.pad`; a negative entry crops."""


def to_pair(value: int | Sequence[int]) -> Pair:
    """(3, 3) for 3; a sequence of two as a tuple."""
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


@dataclass(frozen=True, kw_only=True)
class ConvSpec:
    """The arguments of an `nn.Conv2d`: what a block stands in for. Pairs are (height, width)."""

    in_channels: int
    out_channels: int
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    padding_mode: str = "zeros"

    def __post_init__(self) -> None:
        for name in ("kernel_size", "stride", "padding", "dilation"):
            try:
                object.__setattr__(self, name, to_pair(getattr(self, name)))
            except (TypeError, ValueError) as error:
                hint = "neither an integer nor a pair (`ConvSpec.of(conv)` understands 'same')"
                raise ValueError(f"{name}={getattr(self, name)!r} is {hint}") from error
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"groups={self.groups} must divide channels {self.in_channels} and {self.out_channels}")

    @classmethod
    def of(cls, conv: nn.Conv2d) -> ConvSpec:
        """Read the spec of a convolution.

        Raises:
            ValueError: `padding="same"` of an even kernel, which pads one side more than the other.
        """
        left, right, top, bottom = conv_padding(conv)
        if (left, top) != (right, bottom):
            raise ValueError(f"padding='same' of an even kernel is asymmetric: {conv}")
        names = ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups", "padding_mode")
        return cls(**{name: getattr(conv, name) for name in names}, padding=(top, left))

    @property
    def depthwise(self) -> bool:
        return self.groups == self.in_channels == self.out_channels

    def window(self, kernel_size: Pair) -> Padding:
        """The padding with which a smaller kernel reads the pixels under the middle taps of this one.

        (left, right, top, bottom), negative where it crops: the offset rule of `embed`, solved for the padding.
        """
        sides: list[int] = []
        for axis in (1, 0):
            size, small = self.kernel_size[axis], kernel_size[axis]
            first = size // 2 - small // 2
            dilation, padding = self.dilation[axis], self.padding[axis]
            sides += [padding - dilation * first, padding - dilation * (size - small - first)]
        return sides[0], sides[1], sides[2], sides[3]


def conv_padding(conv: nn.Conv2d) -> Padding:
    """The zero padding of a convolution on its four sides, strings ('same', 'valid') resolved."""
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    return left, right, top, bottom


@dataclass(frozen=True)
class AffineKernel:
    """A convolution with bias, as an immutable value: x → conv2d(pad(x, padding), weight) + bias.

    Attributes:
        weight: (out_channels, in_channels / groups, kernel height, kernel width).
        bias: (out_channels,).
        stride, dilation: (height, width).
        padding: (left, right, top, bottom) zeros around the input; negative entries crop it.
        groups: Number of channel groups.
    """

    weight: Tensor
    bias: Tensor
    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        padded = F.pad(x, self.padding)
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1] * self.groups

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def kernel_size(self) -> Pair:
        return self.weight.shape[2], self.weight.shape[3]


def per_channel(scale: Tensor, shift: Tensor) -> AffineKernel:
    """x → scale · x + shift for each channel: an eval-mode BatchNorm; scale 1, shift 0 is the identity.

    Args:
        scale, shift: (channels,).
    """
    return AffineKernel(scale[:, None, None, None], shift, groups=len(scale))


def identity(channels: int, like: Tensor) -> AffineKernel:
    """x → x, with the dtype and device of `like`."""
    return per_channel(like.new_ones(channels), like.new_zeros(channels))


def average(channels: int, kernel_size: Pair, stride: Pair, padding: Pair, like: Tensor) -> AffineKernel:
    """Transform V: average pooling as a depthwise convolution, every tap 1/(kh·kw).

    Exact where padded zeros count (`count_include_pad=True`) or there is no padding.
    """
    weight = like.new_full((channels, 1, *kernel_size), 1 / math.prod(kernel_size))
    top, left = padding
    return AffineKernel(weight, like.new_zeros(channels), stride, (left, left, top, top), groups=channels)


def regroup(kernel: AffineKernel, groups: int) -> AffineKernel:
    """The same map written with fewer groups: every group's weight becomes a diagonal block.

    A BatchNorm (one group a channel) thus turns into the K[i, i mod C/g] = 1 kernel of a grouped convolution.

    Raises:
        ValueError: `groups` does not divide the kernel's groups.
    """
    if kernel.groups == groups:
        return kernel
    if kernel.groups % groups:
        raise ValueError(f"a convolution of {kernel.groups} groups cannot be written with {groups}")
    merged = kernel.groups // groups
    out_channels, fan_in, kh, kw = kernel.weight.shape
    blocks = kernel.weight.reshape(groups, merged, out_channels // kernel.groups, fan_in, kh, kw)
    diagonal = torch.eye(merged, dtype=blocks.dtype, device=blocks.device)
    weight = torch.einsum("gmoihw,mn->gmonihw", blocks, diagonal)
    return replace(kernel, weight=weight.reshape(out_channels, merged * fan_in, kh, kw), groups=groups)


def compose(first: AffineKernel, second: AffineKernel) -> AffineKernel:
    """Transforms I and III: x → second(first(x)) as one kernel; one of the two must be 1x1.

    Exact only if the map between them is not zero-padded: a padded zero is not what `first` answers to a padded
    pixel (it answers with its bias). Pad the input of `first` instead (see `pad_output`).

    Raises:
        ValueError: `second` pads the map between, both kernels are larger than 1x1, or channels do not match.
    """
    if second.in_channels != first.out_channels:
        raise ValueError(f"{first.out_channels} channels into a layer for {second.in_channels}")
    if max(second.padding) > 0:
        why = f"no convolution reproduces a map zero-padded by {second.padding} between two layers of a branch"
        raise ValueError(f"{why}: pad it with the first layer's response to a zero pixel (BatchNormPad2d)")
    if first.kernel_size != (1, 1) and second.kernel_size != (1, 1):
        raise ValueError(f"cannot compose {first.kernel_size} with {second.kernel_size}: one must be 1x1")
    if second.groups == second.out_channels == second.in_channels:  # BatchNorm, pooling: no sum over channels
        groups = first.groups
        weight = second.weight[:, :, :, None, :, None] * first.weight[:, :, None, :, None, :]
        bias = second.weight.sum((1, 2, 3)) * first.bias + second.bias
    else:
        groups = math.gcd(first.groups, second.groups)
        first, second = regroup(first, groups), regroup(second, groups)
        inner = first.weight.unflatten(0, (groups, -1))  # (groups, middle, in, h, w)
        outer = second.weight.unflatten(0, (groups, -1))  # (groups, out, middle, h, w)
        weight = torch.einsum("gomyx,gmivu->goiyvxu", outer, inner).flatten(0, 1)
        bias = torch.einsum("gomyx,gm->go", outer, first.bias.unflatten(0, (groups, -1))).flatten() + second.bias
    weight = weight.flatten(2, 3).flatten(3, 4)  # of two kernels, one is a single tap
    (sy, sx), (left, right, top, bottom) = first.stride, second.padding
    between = (left * sx, right * sx, top * sy, bottom * sy)
    stride, padding = _multiply(first.stride, second.stride), _plus(first.padding, between)
    dilation = first.dilation if second.kernel_size == (1, 1) else _multiply(first.stride, second.dilation)
    return AffineKernel(weight, bias, stride, padding, dilation, groups)


def pad_output(kernel: AffineKernel, padding: Padding) -> AffineKernel:
    """Pad a pointwise kernel's output as Transform III presumes (2103.13425, section 3.2): by its input's padding.

    Raises:
        ValueError: The kernel is larger than 1x1, or strided.
    """
    if kernel.kernel_size != (1, 1) or kernel.stride != (1, 1):
        raise ValueError("only a 1x1 convolution of stride 1 answers a padded border with one constant")
    return replace(kernel, padding=_plus(kernel.padding, padding))


def embed(kernel: AffineKernel, spec: ConvSpec) -> AffineKernel:
    """Transform VI: write a kernel as one of the size, padding, dilation and groups of `spec`.

    The offset rule: tap t of a branch padded by p lies on tap (P - p + t·d_branch) / d of a target padded by P with
    dilation d. It covers the 1x1 of RepVGG, the 1xK and Kx1 of ACB (cropped where P < K//2) and even kernels.

    Raises:
        ValueError: A tap falls between the target's taps or outside its window, or channels or strides differ.
    """
    channels, wanted = (kernel.in_channels, kernel.out_channels), (spec.in_channels, spec.out_channels)
    if channels != wanted:
        raise ValueError(f"a branch of {channels} channels (in, out) in a convolution of {wanted}")
    sides = kernel.padding[2:], kernel.padding[:2]
    slices = [_taps(kernel, spec, axis, *sides[axis]) for axis in (0, 1)]
    if kernel.stride != spec.stride:
        raise ValueError(f"a branch of stride {kernel.stride} in a convolution of stride {spec.stride}")
    kernel = regroup(kernel, spec.groups)
    weight = kernel.weight.new_zeros(*kernel.weight.shape[:2], *spec.kernel_size)
    weight[:, :, slices[0], slices[1]] = kernel.weight
    y, x = spec.padding
    return AffineKernel(weight, kernel.bias, spec.stride, (x, x, y, y), spec.dilation, spec.groups)


def _taps(kernel: AffineKernel, spec: ConvSpec, axis: int, before: int, after: int) -> slice:
    """Where a branch's taps lie along one axis of the target (0: height, 1: width)."""
    size, dilation, padding = spec.kernel_size[axis], spec.dilation[axis], spec.padding[axis]
    taps = kernel.kernel_size[axis]
    spacing = kernel.dilation[axis] if taps > 1 else dilation
    start, end = padding - before, dilation * (size - 1) - (padding - after)
    lands = start % dilation == 0 and spacing % dilation == 0
    if not lands or start < 0 or end >= dilation * size or start + spacing * (taps - 1) != end:
        raise ValueError(
            f"a branch of {taps} taps (dilation {spacing}, padding {before} and {after}) does not lie on whole taps "
            f"of a convolution of {size} (dilation {dilation}, padding {padding})"
        )
    return slice(start // dilation, end // dilation + 1, spacing // dilation)


def add(kernels: Sequence[AffineKernel]) -> AffineKernel:
    """Transform II: the sum of branches that share one geometry (bring them there with `embed`).

    Raises:
        ValueError: The geometries differ.
    """
    _check_alike(kernels, 0)
    weights, biases = torch.stack([k.weight for k in kernels]), torch.stack([k.bias for k in kernels])
    return replace(kernels[0], weight=weights.sum(0), bias=biases.sum(0))


def concatenate(kernels: Sequence[AffineKernel]) -> AffineKernel:
    """Transform IV: branches whose outputs are concatenated along channels, each reading the whole input.

    Raises:
        ValueError: A kernel is grouped (its share of a concatenation is not; `regroup` it), or geometries differ.
    """
    if any(k.groups != 1 for k in kernels):
        raise ValueError("depth concatenation takes kernels of one group: regroup(kernel, 1) first")
    _check_alike(kernels, 1)
    weights, biases = torch.cat([k.weight for k in kernels]), torch.cat([k.bias for k in kernels])
    return replace(kernels[0], weight=weights, bias=biases)


def _check_alike(kernels: Sequence[AffineKernel], axis: int) -> None:
    """One geometry, and one shape of weights from `axis` on."""
    found = {(tuple(k.weight.shape[axis:]), k.stride, k.padding, k.dilation, k.groups) for k in kernels}
    if len(found) > 1:
        raise ValueError(f"kernels of different geometry (bring them to one with `embed`): {sorted(found)}")


def _multiply(a: Pair, b: Pair) -> Pair:
    return a[0] * b[0], a[1] * b[1]


def _plus(a: Padding, b: Padding) -> Padding:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]
