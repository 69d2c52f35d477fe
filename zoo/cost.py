"""Parameters, MACs and Winograd multiplications of a network, counted at the ATen level on the meta device.

The papers reproduced here print "FLOPs" and mean multiply-accumulates of the convolutions (those of
squeeze-and-excitation included) and of the fully connected layers; normalisation, activation, pooling and
addition are free. "Wino MULs" (RepVGG, Section 4.1) counts the multiplications left when every stride-1 3x3
convolution runs as F(2x2, 3x3) (Lavin and Gray, arXiv 1509.09308): 16 per tile of four outputs where the
direct form needs 36, so 4/9. Every other convolution and every fully connected layer counts in full.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Network = TypeVar("Network", bound=nn.Module)
Result = TypeVar("Result")

DOES_NOT_RUN = (RuntimeError, TypeError, ValueError, LookupError, AssertionError)
"""What networks raise for an input they do not take; timm asserts the sizes of images."""


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
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0, device="cpu"))
    counter = run_on_twin(model, torch.zeros(1, *input_size, dtype=like.dtype, device=like.device), _count)
    params = sum(p.numel() for p in model.parameters())
    return Cost(params, counter.macs, counter.winograd_muls)


def meta_twin(model: Network) -> Network:
    """A copy of `model` with its tensors on the meta device: deepcopy takes those it finds in the memo."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), False) for p in model.parameters()}
    memo |= {id(b): b.detach().to("meta") for b in model.buffers()}
    return copy.deepcopy(model, memo)


def run_on_twin(model: Network, images: Tensor, run: Callable[[Network, Tensor], Result]) -> Result:
    """`run(twin, images)` with a copy of a network in eval mode, on the meta device if it runs there.

    Raises:
        ValueError: The network does not run on such images.
    """
    try:
        return run(meta_twin(model).eval(), images.to("meta"))
    except DOES_NOT_RUN:  # data-dependent code, tensors that are not buffers
        pass
    try:
        return run(copy.deepcopy(model).eval(), images)
    except DOES_NOT_RUN as error:
        raise ValueError(
            f"{type(model).__name__} does not run on an input of {tuple(images.shape)}: {error}; "
            "pass `example=`, images (N, C, H, W) it accepts"
        ) from error


def _count(model: nn.Module, images: Tensor) -> _Counter:
    with torch.no_grad(), _Counter() as counter:
        model(images)
    return counter


class _Counter(TorchDispatchMode):
    """Adds up the multiplications of every convolution and matrix product that passes through ATen."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.winograd_muls = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
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
        return out
