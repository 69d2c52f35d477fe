"""How far an engine's answers are from those of the float32 PyTorch network."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

RELATIVE_TOLERANCE = 1e-4
NOISE_FACTOR = 10


class ParityError(ValueError):
    """An fp32 engine gives other answers than PyTorch."""


@dataclass(frozen=True)
class Parity:
    """The answers of an engine beside those of the deployed network in float32 PyTorch, on the same images.

    max_relative_error: the largest over batches of max |y - reference| / max |reference|.
    sqnr_db: 10 log10(Σ reference² / Σ (y - reference)²), over all images; infinite if equal.
    argmax_agreement: share of images whose largest output has the same index.
    num_images: images compared.
    """

    max_relative_error: float
    sqnr_db: float
    argmax_agreement: float
    num_images: int

    def __str__(self) -> str:
        figures = f"error {self.max_relative_error:.1e}, SQNR {self.sqnr_db:.1f} dB"
        return f"{figures}, argmax {self.argmax_agreement:.0%} of {self.num_images}"


References = list[tuple[Tensor, Tensor]]


def references(network: nn.Module, batches: Sequence[Tensor]) -> References:
    """(images, answer) of a float32 network on the given batches and on noise shaped like the first.

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


def check_fp32(parity: Parity, engine: str, network: nn.Module, pairs: References) -> None:
    """Raise ParityError if an fp32 engine is further from PyTorch than rounding explains."""
    images, answer = pairs[0]
    bound = tolerance(network, images[:2], answer[:2])
    if not parity.max_relative_error <= bound:
        raise ParityError(
            f"{engine} differs from PyTorch by {parity.max_relative_error:.1e} of the largest output "
            f"(allowed: {bound:.1e})"
        )


def compare(outputs: Sequence[Tensor], references: Sequence[Tensor]) -> Parity:
    """Parity of batches of outputs, each (N, classes) or (N, C, H, W), with those of the reference."""
    for output, reference in zip(outputs, references, strict=True):
        if output.shape != reference.shape:
            raise ParityError(f"the engine answers {tuple(output.shape)}, the network {tuple(reference.shape)}")
    pairs = [(y.detach().double(), r.detach().double()) for y, r in zip(outputs, references, strict=True)]
    errors = [float((y - r).abs().max() / r.abs().max().clamp_min(1e-30)) for y, r in pairs]
    agree = sum(int((y.flatten(1).argmax(1) == r.flatten(1).argmax(1)).sum()) for y, r in pairs)
    num_images = sum(len(r) for _, r in pairs)
    # NaN never agrees with a bound, so an engine that answers NaN is caught wherever the error is compared.
    return Parity(_largest(errors), sqnr_db(pairs), agree / num_images, num_images)


def sqnr_db(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Signal to quantisation noise of (output, reference) pairs, in dB."""
    signal = sum(float(r.square().sum()) for _, r in pairs)
    noise = sum(float((y - r).square().sum()) for y, r in pairs)
    return decibels(signal, noise)


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), of two energies."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def tolerance(network: nn.Module, images: Tensor, reference: Tensor) -> float:
    """Largest relative error an fp32 engine may have: 1e-4, or ten times the network's own rounding noise.

    The noise is the gap between the network in float32 and in float64: in deep networks with SE it can exceed
    any fixed bound without anything being wrong.
    """
    with torch.no_grad():
        exact = copy.deepcopy(network).double()(images.double())
    noise = compare([reference], [exact]).max_relative_error
    return max(RELATIVE_TOLERANCE, NOISE_FACTOR * noise)


def _largest(errors: Sequence[float]) -> float:
    return math.nan if any(math.isnan(error) for error in errors) else max(errors)
