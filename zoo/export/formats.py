"""What a kind of file is: how it is named, written, and read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from zoo.export.engines import Run, Source
from zoo.export.int8 import Goal
from zoo.export.splitting import coarse_and_fine


@dataclass(frozen=True)
class Order:
    """A network that is to become a file.

    source: In the structure that is written, with its example and what int8 takes its ranges from.
    said: JSON of what the network says of its images and classes.
    free_batch: Whether the number of images is left free; else it is the example's.
    opset: ONNX operator set; None is PyTorch's.
    way: How int8 is made.
    goal: What int8 may cost, for the ways that look at it.
    """

    source: Source
    precision: str
    said: str
    free_batch: bool = False
    opset: int | None = None
    way: Way | None = None
    goal: Goal | None = None

    def split(self) -> Order:
        """Ask for the same with its dense convolutions split into coarse and fine."""
        return replace(self, source=replace(self.source, network=coarse_and_fine(self.source.network)))


Way = Callable[[Order], Any]
"""Quantises: what is asked for → what `write` makes the file of."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    suffix: What its name ends in.
    package: What writes it: a key of `PACKAGES`, or None for PyTorch itself.
    write: Writes the file of that name, and what belongs to it beside it; gives operation → how often it occurs.
    read: Runs the file, written in that precision.
    unreadable: Says why files cannot be run here, if so.
    precisions: Precision of the weights → the package that it needs too.
    ways: Of quantising, by name, in the order in which they are tried for a goal; without one, the first is taken.
    batch: Whether the number of images may be left `free`, is `fixed` in the file, or `one`.
    says: Whether the file itself holds what the network says; else a file NAME.json beside it does.
    """

    suffix: str
    package: str | None
    write: Callable[[Order, Path], Mapping[str, int]]
    read: Callable[[Path, str], Run]
    unreadable: Callable[[], str | None] = lambda: None
    precisions: Mapping[str, str | None] = field(default_factory=lambda: {"fp32": None})
    ways: Mapping[str, Way] = field(default_factory=dict)
    batch: Literal["free", "fixed", "one"] = "free"
    says: bool = False
