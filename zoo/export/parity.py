"""Parity: an engine must answer as the float32 PyTorch network does, but for rounding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.compare import NOISE_FACTOR, Agreement, ParityError, in_float64, relative_error

RELATIVE_TOLERANCE = 1e-4

References = list[tuple[Tensor, Tensor]]


def references(network: nn.Module, batches: Sequence[Tensor]) -> References:
    """Pair images with the answer of a float32 network: the given batches, and noise shaped like the first.

    Raises:
        ValueError: The network does not answer one tensor.
    """
    noise = torch.randn(batches[0].shape, generator=torch.Generator().manual_seed(2))
    pairs = []
    for images in (*batches, noise.to(batches[0].device)):
        with torch.no_grad():
            answer = network(images.to(batches[0].device))
        if not isinstance(answer, Tensor):
            raise ValueError(f"the network answers a {type(answer).__name__}, not one tensor: no engine takes that")
        pairs.append((images, answer))
    return pairs


def check_fp32(parity: Agreement, engine: str, network: nn.Module, pairs: References) -> None:
    """Raise ParityError if an fp32 engine is further from PyTorch than rounding explains."""
    images, answer = pairs[0]
    bound = tolerance(network, images[:2], answer[:2])
    if not parity.max_relative_error <= bound:
        raise ParityError(
            f"{engine} differs from PyTorch by {parity.max_relative_error:.1e} of the largest output "
            f"(allowed: {bound:.1e})"
        )


def tolerance(network: nn.Module, images: Tensor, answer: Tensor) -> float:
    """Compute the largest relative error that an fp32 engine may have: 1e-4, or ten times the network's own noise."""
    return max(RELATIVE_TOLERANCE, NOISE_FACTOR * relative_error(answer, in_float64(network, images)))
