"""MultiBranchConv2d: trains as a sum of linear branches, becomes one nn.Conv2d."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.cost import meta_twin
from zoo.reparam.algebra import AffineKernel, ConvSpec, add, embed
from zoo.reparam.fold import fold

_FITTING: set[tuple[ConvSpec, str]] = set()
"""Convolutions and (printed) branches that were found to fit."""


class MultiBranchConv2d(nn.Module):
    """A stand-in for `Conv2d` (+ `BatchNorm2d`): y = Σ branch(x).

    Linear in eval mode: activations, SE and residual connections stay in the network around it. `fuse` gives
    the equal `nn.Conv2d`; timm's `reparameterize_model` calls it and puts the result in the block's place.

    Args:
        spec: The convolution that the block stands in for, and becomes.
        branches: Name → linear layer or `Sequential` of them (see `zoo.reparam.fold`).

    Shape:
        (N, in_channels, H, W) → (N, out_channels, H', W') as `nn.Conv2d` of the same spec.

    Raises:
        ValueError: A branch is not linear, or does not fit in the convolution: found when the block is built.
    """

    def __init__(self, spec: ConvSpec, branches: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.spec = spec
        # Reflected or wrapped borders are padded once, in front of all branches.
        self.pads = spec.padding_mode != "zeros"
        (self.pad_y, self.pad_x), self.pad_mode = spec.padding, spec.padding_mode
        self.branches = nn.ModuleDict(branches)
        if not branches:
            raise ValueError("a block needs at least one branch")
        if (built := (spec, repr(self.branches))) not in _FITTING:  # networks repeat their blocks
            meta_twin(self).equivalent_kernel()  # shapes only: refuses what does not fit
            _FITTING.add(built)

    def forward(self, x: Tensor) -> Tensor:
        if self.pads:
            x = F.pad(x, (self.pad_x, self.pad_x, self.pad_y, self.pad_y), mode=self.pad_mode)
        outputs = [branch(x) for branch in self.branches.values()]
        y = outputs[0]
        for other in outputs[1:]:
            y = y + other
        return y

    def branch_kernels(self) -> dict[str, AffineKernel]:
        """Each branch as a kernel of the block's own geometry, float64, differentiable (unpadded if `pads`)."""
        spec, device = inner_spec(self.spec), next((p.device for p in self.parameters()), None)
        return {name: embed(fold(branch, spec.in_channels, device), spec) for name, branch in self.branches.items()}

    def equivalent_kernel(self) -> AffineKernel:
        """The one kernel that computes what all branches do in eval mode: float64, differentiable.

        For regularisers, pruning and quantisation-aware training; `fuse` casts it to a convolution.
        """
        return add(list(self.branch_kernels().values()))

    def fuse(self) -> nn.Conv2d:
        """The equal `nn.Conv2d` (with bias), of the block's dtype and device: folded in float64, cast once.

        Raises:
            ValueError: The block is in training mode, where BatchNorm answers with the batch's statistics.
        """
        if self.training:
            raise ValueError("a block in training mode has no fixed kernel: call model.eval() before deploying")
        like = first_parameter(self)
        if like.is_meta:  # shapes alone, so there is nothing to fold
            return empty_conv(self.spec, like.dtype)
        with torch.no_grad():
            kernel = self.equivalent_kernel()
        return conv_of(self.spec, kernel, like.dtype)

    def extra_repr(self) -> str:
        s = self.spec
        return (
            f"{s.in_channels}, {s.out_channels}, kernel_size={s.kernel_size}, stride={s.stride}, "
            f"padding={s.padding}, dilation={s.dilation}, groups={s.groups}"
        )


def first_parameter(module: nn.Module) -> Tensor:
    """For the dtype and device of a module: float32 on the CPU if it has no parameters."""
    return next(module.parameters(), torch.empty(0, device="cpu"))


def inner_spec(spec: ConvSpec) -> ConvSpec:
    """What the branches see: with a non-zero padding mode the block has padded their input already."""
    if spec.padding_mode == "zeros":
        return spec
    return replace(spec, padding=(0, 0), padding_mode="zeros")


def conv_of(spec: ConvSpec, kernel: AffineKernel, dtype: torch.dtype) -> nn.Conv2d:
    """The `nn.Conv2d` of a spec with a kernel's weight and bias, in eval mode."""
    conv = empty_conv(spec, dtype)
    conv.weight = nn.Parameter(kernel.weight.to(dtype))
    conv.bias = nn.Parameter(kernel.bias.to(dtype))
    return conv


def empty_conv(spec: ConvSpec, dtype: torch.dtype) -> nn.Conv2d:
    """The `nn.Conv2d` of a spec on the meta device, in eval mode."""
    padding_mode: Any = spec.padding_mode  # torch's stubs want the literal
    return nn.Conv2d(
        spec.in_channels,
        spec.out_channels,
        spec.kernel_size,
        spec.stride,
        spec.padding,
        spec.dilation,
        spec.groups,
        padding_mode=padding_mode,
        device="meta",
        dtype=dtype,
    ).eval()
