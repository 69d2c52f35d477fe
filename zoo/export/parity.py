"""Parity: an engine must answer as the float32 PyTorch network does, but for rounding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.compare import NOISE_FACTOR, Agreement, ParityError, compare, in_float64, relative_error
from zoo.export.engines import Run

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


def compare_engine(run: Run, name: str, precision: str, network: nn.Module, pairs: References) -> Agreement:
    """Compare an engine's answers with those of the float32 network.

    Raises:
        ParityError: It computes in fp32 and is further from PyTorch than rounding explains.
    """
    parity = compare([run(images) for images, _ in pairs], [answer for _, answer in pairs])
    if precision == "fp32":
        images, answer = pairs[0]
        bound = tolerance(network, images[:2], answer[:2])
        if not parity.max_relative_error <= bound:
            error = f"{parity.max_relative_error:.1e} of the largest output"
            raise ParityError(f"{name} differs from PyTorch by {error} (allowed: {bound:.1e})")
    return parity


def tolerance(network: nn.Module, images: Tensor, answer: Tensor) -> float:
    """Compute the largest relative error that an fp32 engine may have: 1e-4, or ten times the network's own noise."""
    return max(RELATIVE_TOLERANCE, NOISE_FACTOR * relative_error(answer, in_float64(network, images)))
