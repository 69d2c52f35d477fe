"""From layers to kernels: what convolution a linear layer, or a chain of them, is."""

from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from zoo.reparam.algebra import AffineKernel, average, compose, identity, pad_output, per_channel
from zoo.reparam.layers import AveragePool2d, BatchNormPad2d, IdentityConv2d, Window2d
from zoo.reparam.spec import conv_padding, to_pair

_DOUBLE = torch.empty(0, dtype=torch.float64)
NORM_LAYERS = (_BatchNorm, FrozenBatchNorm2d, FrozenBatchNormAct2d)
NORM_FORWARDS = {kind.forward for kind in (*NORM_LAYERS, nn.SyncBatchNorm, BatchNormAct2d, SyncBatchNormAct)}
"""What a BatchNorm computes in eval mode is known by the `forward` of its class."""


@singledispatch
def fold(layer: nn.Module, in_channels: int, device: torch.device | None = None) -> AffineKernel:
    """Fold a linear layer or a `Sequential` of them to one kernel: float64, differentiable in its parameters.

    A new linear layer joins by `@fold.register`.

    Args:
        layer: The layer, meant in eval mode: BatchNorm folds with its running statistics.
        in_channels: Channels of its input (pooling and padding layers do not know them).
        device: Where layers without parameters make their kernel.

    Raises:
        ValueError: The layer is not linear, or BatchNorm keeps no running statistics, or a chain zero-pads
            the map between two of its layers.
    """
    raise ValueError(f"{type(layer).__name__} is not a linear layer that fold knows")


def _refuse_own_forward(layer: nn.Module, kind: type[nn.Module]) -> None:
    if type(layer).forward is not kind.forward:
        raise ValueError(f"{type(layer).__name__} is a {kind.__name__} with a forward of its own")


@fold.register
def _(layer: BatchNormPad2d, in_channels: int, device: torch.device | None = None) -> AffineKernel:
    return fold(layer.bn, in_channels, device)


@fold.register
def _(layer: AveragePool2d, in_channels: int, device: torch.device | None = None) -> AffineKernel:
    pool = average(in_channels, layer.kernel_size, layer.stride, (0, 0), _DOUBLE.to(device))
    return replace(pool, dilation=layer.dilation)


@fold.register
def _(layer: nn.Sequential, in_channels: int, device: torch.device | None = None) -> AffineKernel:
    _refuse_own_forward(layer, nn.Sequential)
    if not len(layer):
        return identity(in_channels, _DOUBLE.to(device))
    first, *rest = layer
    kernel = fold(first, in_channels, device)
    for part in rest:
        kernel = compose(kernel, fold(part, kernel.out_channels, device))
        if isinstance(part, BatchNormPad2d):
            kernel = pad_output(kernel, part.border)
    return kernel


@fold.register
def _(layer: nn.Conv2d, in_channels: int, device: torch.device | None = None) -> AffineKernel:
    if type(layer).forward is not nn.Conv2d.forward or type(layer)._conv_forward is not nn.Conv2d._conv_forward:
        raise ValueError(f"{type(layer).__name__} computes its convolution in a way of its own")
    if layer.padding_mode != "zeros":
        raise ValueError(f"a convolution with padding_mode={layer.padding_mode!r} inside a branch is not one kernel")
    stride, dilation = to_pair(layer.stride), to_pair(layer.dilation)
    geometry = {"stride": stride, "padding": conv_padding(layer), "dilation": dilation, "groups": layer.groups}
    return kernel_of(layer.weight, layer.bias, **geometry)


@fold.register
def _(layer: IdentityConv2d, in_channels: int, device: torch.device | None = None) -> AffineKernel:
    return kernel_of(layer.full_weight(layer.weight.double()), None, groups=layer.groups)


def kernel_of(weight: Tensor, bias: Tensor | None, **geometry: Any) -> AffineKernel:
    """Make the kernel of a convolution's weight and bias, in float64; without one its bias is zero by construction."""
    weight = weight.double()
    shift = weight.new_zeros(len(weight)) if bias is None else bias.double()
    return AffineKernel(weight, shift, unbiased=bias is None, **geometry)


@fold.register(_BatchNorm)
@fold.register(FrozenBatchNorm2d)
@fold.register(FrozenBatchNormAct2d)
def _(layer: nn.Module, in_channels: int, device: torch.device | None = None) -> AffineKernel:
    if not is_plain_norm(layer):
        raise ValueError(f"{type(layer).__name__} computes its normalisation in a way of its own")
    if not isinstance(activation_of(layer), nn.Identity):
        raise ValueError(f"{type(layer).__name__} has an activation, so it is not linear: keep it outside the branch")
    return per_channel(*norm_scale_shift(layer))


def is_plain_norm(layer: nn.Module) -> bool:
    """Tell a BatchNorm (also synchronised, frozen, with timm's activation) from a subclass that does more."""
    return isinstance(layer, NORM_LAYERS) and type(layer).forward in NORM_FORWARDS


def norm_scale_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """Write an eval-mode BatchNorm as y = scale · x + shift, each (channels,) float64.

    Takes BatchNorm2d, SyncBatchNorm, frozen BatchNorm of torchvision and timm, BatchNormAct2d (its activation
    left aside) and `affine=False`.

    Raises:
        ValueError: The layer keeps no running statistics (`track_running_stats=False`).
    """
    if norm.running_mean is None or norm.running_var is None:
        why = "keeps no running statistics (track_running_stats=False): what it computes depends on the batch"
        raise ValueError(f"{type(norm).__name__} {why}")
    mean, var = norm.running_mean.double(), norm.running_var.double()
    weight = 1.0 if norm.weight is None else norm.weight.double()
    bias = 0.0 if norm.bias is None else norm.bias.double()
    scale = torch.rsqrt(var + norm.eps) * weight
    return scale, bias - mean * scale


def activation_of(norm: Any) -> nn.Module:
    """Return the drop and activation that timm's fused norm layers apply after normalising; else the identity."""
    if not isinstance(norm, BatchNormAct2d | FrozenBatchNormAct2d | SyncBatchNormAct):
        return nn.Identity()
    drop: Any = norm.drop
    act: Any = norm.act
    return act if isinstance(drop, nn.Identity) else nn.Sequential(drop, act)


@fold.register
def _(layer: nn.AvgPool2d, in_channels: int, device: torch.device | None = None) -> AffineKernel:
    _refuse_own_forward(layer, nn.AvgPool2d)
    kernel_size, padding = to_pair(layer.kernel_size), to_pair(layer.padding)
    if layer.ceil_mode or layer.divisor_override or (any(padding) and not layer.count_include_pad):
        raise ValueError(f"{layer} does not divide every window by the same number, so it is not a convolution")
    return average(in_channels, kernel_size, to_pair(layer.stride), padding, _DOUBLE.to(device))


@fold.register
def _(layer: nn.Identity, in_channels: int, device: torch.device | None = None) -> AffineKernel:
    _refuse_own_forward(layer, nn.Identity)
    return identity(in_channels, _DOUBLE.to(device))


@fold.register
def _(layer: nn.ZeroPad2d, in_channels: int, device: torch.device | None = None) -> AffineKernel:
    _refuse_own_forward(layer, nn.ZeroPad2d)
    return fold(Window2d(layer.padding), in_channels, device)


@fold.register
def _(layer: Window2d, in_channels: int, device: torch.device | None = None) -> AffineKernel:
    return replace(identity(in_channels, _DOUBLE.to(device)), stride=layer.stride, padding=layer.padding)
