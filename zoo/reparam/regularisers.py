"""Penalties on equivalent kernels: what training should say about the convolution that will be deployed.

Both are differentiable in every parameter of every branch, which is what `equivalent_kernel()` is for; a penalty of
your own is as short.
"""

import math

import torch
from torch import Tensor, nn

from zoo.reparam.algebra import AffineKernel
from zoo.reparam.block import MultiBranchConv2d


def equivalent_l2(model: nn.Module) -> Tensor:
    """½ Σ ‖K‖² over the equivalent kernels K of all blocks: a float64 scalar.

    After RepVGG's custom L2 (official repository, `get_custom_L2`): decay the kernel that is deployed, not the
    branches it is made of; it is meant to replace the weight decay of the branches' convolutions. The official code
    leaves the identity branch out, takes the ring around the centre from the 3x3 branch before its BatchNorm, divides
    the centre by the BatchNorms' scales and lets no gradient into those; here K is the equivalent kernel, as it is.

    Raises:
        ValueError: The network has no block.
    """
    return 0.5 * torch.stack([kernel.weight.square().sum() for kernel in _kernels(model)]).sum()


def channel_lasso(model: nn.Module) -> Tensor:
    """Σ √n ‖K_c‖ over the output channels c of all equivalent kernels, n weights each: a float64 scalar.

    Group lasso (Yuan and Lin 2006; for channels: Wen et al., arXiv 1608.03665). Whole filters of the deployed
    convolution go to zero together and can be cut out; on the branches alone no penalty can do that, as they
    may cancel.

    Raises:
        ValueError: The network has no block.
    """
    penalties = []
    for kernel in _kernels(model):
        filters = kernel.weight.flatten(1)
        # The norm's gradient at zero is none: a hair inside the root keeps pruned filters finite.
        penalties.append(math.sqrt(filters.shape[1]) * (filters.square().sum(1) + 1e-12).sqrt().sum())
    return torch.stack(penalties).sum()


def _kernels(model: nn.Module) -> list[AffineKernel]:
    kernels = [m.equivalent_kernel() for m in model.modules() if isinstance(m, MultiBranchConv2d)]
    if not kernels:
        raise ValueError("the network has no multi-branch block, so there is no equivalent kernel to penalise")
    return kernels
