"""Parameters, MACs, Winograd multiplications and memory traffic of a network, counted by ATen on the meta device.

The papers reproduced here print "FLOPs" and mean multiply-accumulates of the convolutions (those of
squeeze-and-excitation included) and of the fully connected layers; normalisation, activation, pooling and
addition are free. "Wino MULs" (RepVGG, Section 4.1) counts the multiplications left when every stride-1 3x3
convolution runs as F(2x2, 3x3) (Lavin and Gray, arXiv 1509.09308): 16 per tile of four outputs where the
direct form needs 36, so 4/9. Every other convolution and every fully connected layer counts in full.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.network import run_on_twin


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one forward pass of one image needs.

    params: elements of all parameters (BatchNorm's affine ones included, running statistics not).
    macs: multiply-accumulates of convolutions and fully connected layers.
    winograd_muls: multiplications of the same layers, stride-1 3x3 convolutions as F(2x2, 3x3).
    """

    params: int
    macs: int
    winograd_muls: int


def count(model: nn.Module, input_size: Sequence[int] = (3, 224, 224)) -> Cost:
    """Count the cost of `model` in eval mode for one input of shape `input_size` = (channels, height, width).

    `model` may live on any device, meta included; it is neither changed nor, where it runs on the meta device, copied
    with its weights, so the largest network takes seconds and no memory. Operations inside attention (bmm) are not
    counted.

    Raises:
        ValueError: `input_size` is not three positive integers, or the network does not run on it.
    """
    if len(input_size) != 3 or min(input_size) < 1:
        raise ValueError(f"input_size must be positive (channels, height, width), got {tuple(input_size)}")
    counter = _counted(model, (1, *input_size))
    params = sum(p.numel() for p in model.parameters())
    return Cost(params, counter.macs, counter.winograd_muls)


def traffic(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Count the elements that one forward pass must move at least: of the same layers, all operands and the result.

    Activations, additions and normalisations count nothing, as an engine may fuse them; a cache that keeps a map from
    one layer to the next may beat the bound.

    Args:
        model: Any network; it is not changed.
        input_shape: (N, C, H, W).

    Raises:
        ValueError: The network does not run on such images.
    """
    return _counted(model, input_shape).elements


def _counted(model: nn.Module, input_shape: Sequence[int]) -> _Counter:
    def run(twin: nn.Module, images: torch.Tensor) -> _Counter:
        with torch.no_grad(), _Counter() as counter:
            twin(images)
        return counter

    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0, device="cpu"))
    return run_on_twin(model, like.new_zeros(input_shape), run)


class _Counter(TorchDispatchMode):
    """Adds up multiplications and operands of every convolution and matrix product that passes through ATen."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.winograd_muls = 0
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            image, weight, _, stride, _, dilation, transposed = args[:7]
            # Each output (for a transposed convolution: each input) meets one filter.
            macs = (image if transposed else out).numel() * weight[0].numel()
            winograd = tuple(weight.shape[2:]) == (3, 3) and set(stride) == set(dilation) == {1} and not transposed
            self.macs += macs
            self.winograd_muls += macs * 4 // 9 if winograd else macs  # exact: nine taps per filter
        elif func in (torch.ops.aten.addmm.default, torch.ops.aten.mm.default):
            left, right = args[-2:]
            macs = left.numel() * right.shape[1]
            self.macs += macs
            self.winograd_muls += macs
        else:
            return out
        self.elements += out.numel() + sum(arg.numel() for arg in args if isinstance(arg, torch.Tensor))
        return out
