"""The share of each branch in its block's equivalent kernel."""

import torch
from torch import nn

from zoo.reparam.block import MultiBranchConv2d


def branch_shares(model: nn.Module) -> dict[str, dict[str, float]]:
    """Measure {block: {branch: share}}: a folded kernel's Frobenius norm over the sum of all branches' norms.

    The shares of a block add up to 1. Kernels are those of eval mode: BatchNorm scales them by its running
    statistics. Shares tell size, not use: branches that cancel each other have large ones.
    """
    return {name: _shares(module) for name, module in model.named_modules() if isinstance(module, MultiBranchConv2d)}


def _shares(block: MultiBranchConv2d) -> dict[str, float]:
    with torch.no_grad():
        norms = {name: kernel.weight.norm().item() for name, kernel in block.branch_kernels().items()}
    total = sum(norms.values()) or 1.0
    return {name: norm / total for name, norm in norms.items()}
