"""The arguments of a convolution, as a value: what a block stands in for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]
"""(left, right, top, bottom), the order of `torch.nn.functional.pad`; a negative entry crops."""


def to_pair(value: int | Sequence[int]) -> Pair:
    """(3, 3) for 3; a sequence of two as a tuple."""
    height, width = (value, value) if isinstance(value, int) else value
    return int(height), int(width)


@dataclass(frozen=True, init=False)
class ConvSpec:
    """The arguments of an `nn.Conv2d`: what a block stands in for. One number is meant for (height, width) both."""

    in_channels: int
    out_channels: int
    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    padding_mode: str

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
    ) -> None:
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups={groups} must divide channels {in_channels} and {out_channels}")
        pairs: dict[str, Any] = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
        for name, value in pairs.items():
            try:
                pairs[name] = to_pair(value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name}={value!r}: no number or pair (`ConvSpec.of(conv)` reads 'same')") from error
        channels = {"in_channels": in_channels, "out_channels": out_channels}
        vars(self).update(channels, **pairs, groups=groups, padding_mode=padding_mode)

    @classmethod
    def of(cls, conv: nn.Conv2d) -> ConvSpec:
        """Read the spec of a convolution.

        Raises:
            ValueError: `padding="same"` of an even kernel, which pads one side more than the other.
        """
        left, right, top, bottom = conv_padding(conv)
        if (left, top) != (right, bottom):
            raise ValueError(f"padding='same' of an even kernel is asymmetric: {conv}")
        names = ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups", "padding_mode")
        return cls(**{name: getattr(conv, name) for name in names}, padding=(top, left))

    @property
    def depthwise(self) -> bool:
        return self.groups == self.in_channels == self.out_channels

    def window(self, kernel_size: Pair) -> Padding:
        """Solve the offset rule of `algebra.embed` for the padding (negative: cropping) of a smaller kernel.

        With it the smaller kernel reads the pixels under the middle taps of this one.
        """
        sides: list[int] = []
        for axis in (1, 0):
            size, small = self.kernel_size[axis], kernel_size[axis]
            first = size // 2 - small // 2
            dilation, padding = self.dilation[axis], self.padding[axis]
            sides += [padding - dilation * first, padding - dilation * (size - small - first)]
        return sides[0], sides[1], sides[2], sides[3]


def conv_padding(conv: nn.Conv2d) -> Padding:
    """Read the zero padding of a convolution on its four sides, strings ('same', 'valid') resolved."""
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    return left, right, top, bottom
