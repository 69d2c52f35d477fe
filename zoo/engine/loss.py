"""What training minimises."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.reparam.block import MultiBranchConv2d

AUX_WEIGHT = 0.1  # of each auxiliary head (RepVGGplus)


Outputs = Tensor | tuple[Tensor, ...]
"""Logits (N, classes); followed by those of the auxiliary heads, of a network that trains with some."""


def main_output(outputs: Outputs) -> Tensor:
    """The logits (N, classes) of the main head."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def classification_loss(outputs: Outputs, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, plus 0.1 times that of each auxiliary head.

    Args:
        targets: class indices (N,), or probabilities (N, classes) of mixed images, smoothed already.
        smoothing: label smoothing for class indices.
    """
    smoothing = 0.0 if targets.ndim == 2 else smoothing
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    main, *aux = [F.cross_entropy(logits.float(), targets, label_smoothing=smoothing) for logits in heads]
    return main + AUX_WEIGHT * torch.stack(aux).sum() if aux else main


def equivalent_l2(model: nn.Module) -> Tensor:
    """½ Σ ‖K‖² over the equivalent kernels K of all multi-branch blocks, differentiable.

    After RepVGG's custom L2 (its README): decay the kernel that is deployed, not the branches it is made of.
    The official code leaves the identity branch out and divides the centre by the scale of the BatchNorms;
    here K is the whole equivalent kernel. Meant to replace the weight decay of the branches' convolutions.
    """
    kernels = [m.equivalent_kernel().weight for m in model.modules() if isinstance(m, MultiBranchConv2d)]
    if not kernels:
        raise ValueError("equivalent_l2: the network has no multi-branch block")
    return 0.5 * torch.stack([kernel.square().sum() for kernel in kernels]).sum()
