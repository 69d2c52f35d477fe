"""MultiBranchConv2d: trains as a sum of linear branches, becomes one nn.Conv2d."""

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.reparam.algebra import AffineKernel, add, embed
from zoo.reparam.fold import fold
from zoo.reparam.spec import ConvSpec


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
        (self.pad_y, self.pad_x), self.pad_mode = spec.padding, spec.padding_mode
        self.branches = nn.ModuleDict(branches)
        if not branches:
            raise ValueError("a block needs at least one branch")
        shapes = {id(t): t.detach().to("meta") for t in (*self.parameters(), *self.buffers())}
        copy.deepcopy(self, shapes).equivalent_kernel()  # refuses what does not fit

    def forward(self, x: Tensor) -> Tensor:
        if self.pad_mode != "zeros":
            x = F.pad(x, (self.pad_x, self.pad_x, self.pad_y, self.pad_y), mode=self.pad_mode)
        outputs = [branch(x) for branch in self.branches.values()]
        y = outputs[0]
        for other in outputs[1:]:
            y = y + other
        return y

    def branch_kernels(self) -> dict[str, AffineKernel]:
        """Fold each branch to a kernel of the geometry that `inner_spec` gives: float64, differentiable."""
        spec, device = inner_spec(self.spec), next((p.device for p in self.parameters()), None)
        return {name: embed(fold(branch, spec.in_channels, device), spec) for name, branch in self.branches.items()}

    def equivalent_kernel(self) -> AffineKernel:
        """Fold all branches to the one kernel that they are in eval mode: float64, differentiable.

        For regularisers, pruning and quantisation-aware training; `fuse` casts it to a convolution.
        """
        return add(list(self.branch_kernels().values()))

    def fuse(self) -> nn.Conv2d:
        """Make the `nn.Conv2d` (with bias) that equals the block in eval mode: folded in float64, cast once.

        In training mode too, as timm's blocks do: its `benchmark.py --reparam` fuses before it calls `eval()`.
        `zoo.deploy` refuses such a network.
        """
        with torch.no_grad():
            return conv_of(self.spec, self.equivalent_kernel(), first_parameter(self).dtype)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in vars(self.spec).items())


def first_parameter(module: nn.Module) -> Tensor:
    """Return a tensor of a module's dtype and device: float32 on the CPU if it has no parameters."""
    return next(module.parameters(), torch.empty(0, device="cpu"))


def inner_spec(spec: ConvSpec) -> ConvSpec:
    """Return the spec that branches see: with a non-zero padding mode the block pads their input first."""
    if spec.padding_mode == "zeros":
        return spec
    return replace(spec, padding=(0, 0), padding_mode="zeros")


def conv_of(spec: ConvSpec, kernel: AffineKernel, dtype: torch.dtype) -> nn.Conv2d:
    """Make the `nn.Conv2d` of a spec with a kernel's weight and bias, in eval mode."""
    conv = nn.Conv2d(**vars(spec), device="meta").eval()
    conv.weight = nn.Parameter(kernel.weight.to(dtype))
    conv.bias = nn.Parameter(kernel.bias.to(dtype))
    return conv
