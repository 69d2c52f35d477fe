"""The algebra of structural re-parameterization: convolutions as values.

A branch of a re-parameterizable block is a chain of linear layers, so it *is* one convolution with a bias: an
`AffineKernel`. Chains compose, branches add. The six transforms are those of Diverse Branch Block (arXiv 2103.13425,
section 3.2), of which RepVGG (arXiv 2101.03697) and ACNet (arXiv 1908.03930) use I, II and VI:

    I    conv, then BatchNorm             compose(conv, per_channel(scale, shift))
    II   sum of branches                  add, after align
    III  1x1, then KxK; KxK, then KxK     compose
    IV   depth concatenation              concatenate
    V    average pooling                  average
    VI   smaller kernel inside a larger   embed

All functions are pure, differentiable and keep the dtype they are given; `fold` calls them in float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.reparam.spec import ConvSpec, Padding, Pair


@dataclass(frozen=True)
class AffineKernel:
    """A convolution with bias, as an immutable value: x → conv2d(pad(x, padding), weight) + bias.

    Attributes:
        weight: (out_channels, in_channels / groups, kernel height, kernel width).
        bias: (out_channels,).
        stride, dilation: (height, width).
        padding: (left, right, top, bottom) zeros around the input; negative entries crop it.
        groups: Number of channel groups.
        unbiased: Whether the bias is zero by construction, so that zeros are answered by zeros.
    """

    weight: Tensor
    bias: Tensor
    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    unbiased: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, self.padding), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

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
    """Transforms I and III: x → second(first(x)) as one kernel; of K1 and K2 taps it has K1 + K2 - 1.

    Exact only if the map between them is not zero-padded: a padded zero is not what `first` answers to a padded
    pixel (it answers with its bias). Pad the input of `first` instead (see `pad_output`). Without a bias, and with a
    single tap along the padded axis, `first` does answer with zeros: a 1xK and the Kx1 after it are a KxK.

    Raises:
        ValueError: `second` pads the map between, or channels do not match.
    """
    if second.in_channels != first.out_channels:
        raise ValueError(f"{first.out_channels} channels into a layer for {second.in_channels}")
    padded = [axis for axis in (0, 1) if max(_sides(second, axis)) > 0]
    if any(not first.unbiased or first.kernel_size[axis] > 1 or min(_sides(first, axis)) < 0 for axis in padded):
        why = f"no convolution reproduces a map zero-padded by {second.padding} between two layers of a branch"
        raise ValueError(f"{why}: pad it with the first layer's response to a zero pixel (BatchNormPad2d)")
    if _keeps_channels_apart(second):  # BatchNorm, pooling
        groups = first.groups
        weight = second.weight[:, :, :, None, :, None] * first.weight[:, :, None, :, None, :]
        bias = second.weight.sum((1, 2, 3)) * first.bias + second.bias
    elif _keeps_channels_apart(first):
        groups, share = second.groups, second.out_channels // second.groups
        columns = first.weight[:, 0].unflatten(0, (groups, -1)).repeat_interleave(share, 0)
        weight = second.weight[:, :, :, None, :, None] * columns[:, :, None, :, None, :]
        shifts = first.bias.unflatten(0, (groups, -1)).repeat_interleave(share, 0)
        bias = (second.weight.sum((2, 3)) * shifts).sum(1) + second.bias
    else:
        groups = math.gcd(first.groups, second.groups)
        first, second = regroup(first, groups), regroup(second, groups)
        inner = first.weight.unflatten(0, (groups, -1))  # (groups, middle, in, h, w)
        outer = second.weight.unflatten(0, (groups, -1))  # (groups, out, middle, h, w)
        weight = torch.einsum("gomyx,gmivu->goiyvxu", outer, inner).flatten(0, 1)
        bias = torch.einsum("gomyx,gm->go", outer, first.bias.unflatten(0, (groups, -1))).flatten() + second.bias
    (sy, sx), (left, right, top, bottom) = first.stride, second.padding
    padding = _plus(first.padding, (left * sx, right * sx, top * sy, bottom * sy))
    spacing = _multiply(first.stride, second.dilation)
    weight, dilation_y = _merge_taps(weight, 2, spacing[0], first.dilation[0])
    weight, dilation_x = _merge_taps(weight, 3, spacing[1], first.dilation[1])
    stride, unbiased = _multiply(first.stride, second.stride), first.unbiased and second.unbiased
    return AffineKernel(weight, bias, stride, padding, (dilation_y, dilation_x), groups, unbiased)


def _keeps_channels_apart(kernel: AffineKernel) -> bool:
    return kernel.groups == kernel.in_channels == kernel.out_channels


def _merge_taps(weight: Tensor, axis: int, outer_spacing: int, inner_spacing: int) -> tuple[Tensor, int]:
    """Add up the products of outer and inner taps, on axes (axis, axis + 1), that read one pixel; and the dilation."""
    outer, inner = weight.shape[axis : axis + 2]
    merged = weight.flatten(axis, axis + 1)
    if outer == 1 or inner == 1:
        return merged, inner_spacing if outer == 1 else outer_spacing
    dilation = math.gcd(outer_spacing, inner_spacing)
    pixels = [(y * outer_spacing + v * inner_spacing) // dilation for y in range(outer) for v in range(inner)]
    shape = *merged.shape[:axis], max(pixels) + 1, *merged.shape[axis + 1 :]
    return merged.new_zeros(shape).index_add(axis, torch.tensor(pixels, device=merged.device), merged), dilation


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
    if kernel.stride != spec.stride:
        raise ValueError(f"a branch of stride {kernel.stride} in a convolution of stride {spec.stride}")
    y, x = spec.padding
    return _embed(kernel, spec.kernel_size, (x, x, y, y), spec.dilation, spec.groups)


def _embed(kernel: AffineKernel, size: Pair, padding: Padding, dilation: Pair, groups: int) -> AffineKernel:
    kernel = regroup(kernel, groups)
    rows = _taps(kernel, 0, size[0], dilation[0], padding[2:])
    columns = _taps(kernel, 1, size[1], dilation[1], padding[:2])
    weight = kernel.weight.new_zeros(*kernel.weight.shape[:2], *size)
    weight[:, :, rows, columns] = kernel.weight
    return AffineKernel(weight, kernel.bias, kernel.stride, padding, dilation, groups, kernel.unbiased)


def _taps(kernel: AffineKernel, axis: int, size: int, dilation: int, padding: Pair) -> slice:
    """Find the target's taps under a branch's along one axis (0: height, 1: width)."""
    taps = kernel.kernel_size[axis]
    before, after = _sides(kernel, axis)
    spacing = kernel.dilation[axis] if taps > 1 else dilation
    start, end = padding[0] - before, dilation * (size - 1) - (padding[1] - after)
    lands = start % dilation == 0 and spacing % dilation == 0
    if not lands or start < 0 or end >= dilation * size or start + spacing * (taps - 1) != end:
        raise ValueError(
            f"a branch of {taps} taps (dilation {spacing}, padding {before} and {after}) does not lie on whole taps "
            f"of a convolution of {size} (dilation {dilation}, padding {padding})"
        )
    return slice(start // dilation, end // dilation + 1, spacing // dilation)


def _sides(kernel: AffineKernel, axis: int) -> Pair:
    return kernel.padding[:2] if axis else kernel.padding[2:]


def align(kernels: Sequence[AffineKernel]) -> list[AffineKernel]:
    """Write kernels with one geometry by the offset rule: the union of their windows, the groups that all have.

    Raises:
        ValueError: Their strides differ, or the sizes of their outputs.
    """
    if len({kernel.stride for kernel in kernels}) > 1:
        raise ValueError(f"branches of different strides: {sorted({kernel.stride for kernel in kernels})}")
    (height, dy, sides_y), (width, dx, sides_x) = (_union(kernels, axis) for axis in (0, 1))
    groups = math.gcd(*(kernel.groups for kernel in kernels))
    return [_embed(kernel, (height, width), (*sides_x, *sides_y), (dy, dx), groups) for kernel in kernels]


def _union(kernels: Sequence[AffineKernel], axis: int) -> tuple[int, int, Pair]:
    """Find taps, dilation and padding of the smallest window around those of all kernels, along one axis."""
    firsts = [-_sides(kernel, axis)[0] for kernel in kernels]
    lasts = [f + k.dilation[axis] * (k.kernel_size[axis] - 1) for f, k in zip(firsts, kernels, strict=True)]
    spacings = [kernel.dilation[axis] for kernel in kernels if kernel.kernel_size[axis] > 1]
    dilation = math.gcd(*spacings, *(first - firsts[0] for first in firsts)) or 1
    size = (max(lasts) - min(firsts)) // dilation + 1
    return size, dilation, (-min(firsts), _sides(kernels[0], axis)[1] + max(lasts) - lasts[0])


def add(kernels: Sequence[AffineKernel]) -> AffineKernel:
    """Transform II: the sum of branches that share one geometry (bring them there with `embed`).

    Raises:
        ValueError: The geometries differ.
    """
    _check_alike(kernels, 0)
    weights, biases = torch.stack([k.weight for k in kernels]), torch.stack([k.bias for k in kernels])
    return replace(kernels[0], weight=weights.sum(0), bias=biases.sum(0), unbiased=all(k.unbiased for k in kernels))


def concatenate(kernels: Sequence[AffineKernel]) -> AffineKernel:
    """Transform IV: branches whose outputs are concatenated along channels, each reading the whole input.

    Raises:
        ValueError: A kernel is grouped (its share of a concatenation is not; `regroup` it), or geometries differ.
    """
    if any(k.groups != 1 for k in kernels):
        raise ValueError("depth concatenation takes kernels of one group: regroup(kernel, 1) first")
    _check_alike(kernels, 1)
    weights, biases = torch.cat([k.weight for k in kernels]), torch.cat([k.bias for k in kernels])
    return replace(kernels[0], weight=weights, bias=biases, unbiased=all(k.unbiased for k in kernels))


def _check_alike(kernels: Sequence[AffineKernel], axis: int) -> None:
    """One geometry, and one shape of weights from `axis` on."""
    found = {(tuple(k.weight.shape[axis:]), k.stride, k.padding, k.dilation, k.groups) for k in kernels}
    if len(found) > 1:
        raise ValueError(f"kernels of different geometry (bring them to one with `embed`): {sorted(found)}")


def _multiply(a: Pair, b: Pair) -> Pair:
    return a[0] * b[0], a[1] * b[1]


def _plus(a: Padding, b: Padding) -> Padding:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]
