"""The losses that training minimises."""

import torch
import torch.nn.functional as F
from torch import Tensor

AUX_WEIGHT = 0.1  # of each auxiliary head (RepVGGplus)


Outputs = Tensor | tuple[Tensor, ...]
"""Logits (N, classes); followed by those of the auxiliary heads, of a network that trains with some."""


def full_precision(logits: Tensor) -> Tensor:
    """At least float32, which a sum over classes and images needs."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def classification_loss(outputs: Outputs, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, plus 0.1 times that of each auxiliary head.

    Args:
        targets: class indices (N,), or probabilities (N, classes) of mixed images, smoothed already.
        smoothing: label smoothing for class indices.
    """
    smoothing = 0.0 if targets.ndim == 2 else smoothing
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    main, *aux = [F.cross_entropy(full_precision(h), targets, label_smoothing=smoothing) for h in heads]
    return main + AUX_WEIGHT * torch.stack(aux).sum() if aux else main
