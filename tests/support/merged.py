"""A block and its twin that trains merged, and what a training step gives."""

import copy

import torch
from torch import Tensor, nn

from tests.support.blocks import fill_convs, randomise
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.branches import build_block
from zoo.reparam.merged import MergedConv2d, merge
from zoo.reparam.spec import ConvSpec

SPEC = ConvSpec(8, 8, 3, padding=1)


def twins(spec: ConvSpec, block: str, pixels: int = 0, **factory) -> tuple[MultiBranchConv2d, MergedConv2d]:
    """A random block and its copy that trains merged, with statistics from so many pixels, or from the whole batch."""
    torch.manual_seed(0)
    branches = build_block(spec, block, **factory)
    fill_convs(randomise(branches))
    merged = copy.deepcopy(branches)
    merge(merged, pixels or 1)
    assert isinstance(merged, MergedConv2d)
    if not pixels:
        vars(merged)["_part"] = len
    return branches, merged


def images(spec: ConvSpec = SPEC, number: int = 4, size: int = 7, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(number, spec.in_channels, size, size, generator=generator, dtype=torch.float64).add(0.7).to(dtype)
    )


def training_step(block: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The block's output; the input's gradient, every parameter's, and the running statistics after it."""
    x = x.clone().requires_grad_()
    y = block(x)
    (y.double() * torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view_as(y)).sum().backward()
    assert x.grad is not None
    gradients = {name: p.grad for name, p in block.named_parameters() if p.grad is not None}
    return y.detach(), {"x": x.grad, **gradients, **dict(block.named_buffers())}
