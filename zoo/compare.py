"""How different two outputs are: before and after a rewrite, of two structures, of PyTorch and another engine."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

NOISE_FACTOR = 10.0
"""How many times its own rounding noise a network may be off after a rewrite, or in another engine.

A fixed bound would be the wrong test: deep networks with squeeze-and-excitation amplify rounding a million times."""


class ParityError(ValueError):
    """Outputs that should be equal differ by more than rounding, or in shape."""


def relative_error(got: object, wanted: object) -> float:
    """Compute max |got - wanted| / max |wanted| over all tensors of an output (a tensor, list or dict of them).

    NaN if any of them has one: compare by `not error <= bound`.

    Raises:
        ValueError: The output holds no tensors, so there is nothing to compare.
    """
    errors = [
        ((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-300)).item()
        for a, b in zip(tree_leaves(got), tree_leaves(wanted), strict=True)
        if isinstance(a, Tensor)
    ]
    if not errors:
        raise ValueError("the network's output holds no tensors")
    return _largest(errors)


def in_float64(model: nn.Module, images: Tensor) -> object:
    """Run a copy of a network in float64: the answer that its own rounding noise is measured against."""
    with torch.no_grad():
        return copy.deepcopy(model).double()(images.double())


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Outputs beside a reference on the same images; those of batches and of processes add up.

    num_images: images compared.
    same_top1: those whose largest output has the same index.
    max_relative_error: the largest over batches of max |y - reference| / max |reference|.
    signal, noise: Σ reference² and Σ (y - reference)².
    """

    num_images: int = 0
    same_top1: int = 0
    max_relative_error: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    @classmethod
    def of(cls, output: Tensor, reference: Tensor) -> Agreement:
        """Compare one batch of outputs, each (N, classes) or (N, C, H, W), with that of the reference.

        Raises:
            ParityError: Their shapes differ.
        """
        if output.shape != reference.shape:
            raise ParityError(f"one answers {tuple(output.shape)}, the other {tuple(reference.shape)}")
        y, r = output.detach().double(), reference.detach().double()
        return cls(
            num_images=len(r),
            same_top1=int((y.flatten(1).argmax(1) == r.flatten(1).argmax(1)).sum()),
            max_relative_error=relative_error(y, r),
            signal=float(r.square().sum()),
            noise=float((y - r).square().sum()),
        )

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            num_images=self.num_images + other.num_images,
            same_top1=self.same_top1 + other.same_top1,
            max_relative_error=_largest([self.max_relative_error, other.max_relative_error]),
            signal=self.signal + other.signal,
            noise=self.noise + other.noise,
        )

    @property
    def identical_top1(self) -> bool:
        """Whether both name the same class for every image."""
        return self.same_top1 == self.num_images

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise over all images, in dB; infinite if equal."""
        return decibels(self.signal, self.noise)

    def to_dict(self) -> dict[str, float | int | bool | None]:
        """Give the figures as JSON takes them: an infinite SQNR, equal answers, is null there."""
        return {
            "num_images": self.num_images,
            "same_top1": self.same_top1,
            "identical_top1": self.identical_top1,
            "max_relative_error": self.max_relative_error,
            "sqnr_db": self.sqnr_db if math.isfinite(self.sqnr_db) else None,
        }

    def __str__(self) -> str:
        figures = f"error {self.max_relative_error:.1e}, SQNR {self.sqnr_db:.1f} dB"
        return f"{figures}, argmax {self.same_top1 / max(self.num_images, 1):.0%} of {self.num_images}"


def compare(outputs: Iterable[Tensor], references: Iterable[Tensor]) -> Agreement:
    """Compare batches of outputs with those of the reference. Raises: ParityError if shapes differ."""
    return sum(map(Agreement.of, outputs, references), Agreement())


def decibels(signal: float, noise: float) -> float:
    """Compute 10 log10(signal / noise), of two energies."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _largest(errors: list[float]) -> float:
    return math.nan if any(map(math.isnan, errors)) else max(errors)  # Python's max passes over NaN
