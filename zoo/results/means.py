"""Summarise many records by the geometric means of their ratios."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import geometric_mean
from typing import Generic, TypeVar

from zoo.results.records import CONTROL, Join, Latency, Record, Repeatability, Repeated

R = TypeVar("R", bound=Record)

SPEEDUP_KEY = ("structure", "engine", "precision")
JOIN_KEY = ("comparison", "engine", "layout", "batch_size")
"""The fields in which the records of one mean agree."""


@dataclass(frozen=True, kw_only=True)
class Mean(Generic[R]):
    """The geometric mean of the ratios of `count` records that agree in their key; `like` is the first of them."""

    like: R
    ratio: float
    count: int


def speedup_means(records: Sequence[Latency]) -> Iterator[Mean[Latency]]:
    """Average the speed-ups of each structure, engine and precision over all models, batch sizes and resolutions.

    Only combinations that every model and setting has are averaged, so that no mean leaves a slow network out. There
    is no mean where a model has no reference of its own: over networks that compete it would say nothing.
    """
    cell = attrgetter("model", "batch_size", "img_size", "threads")
    records = [record for record in records if record.structure != CONTROL]
    cells = {cell(record) for record in records}
    if cells != {cell(record) for record in records if record.is_reference}:
        return
    for same in _groups(records, SPEEDUP_KEY):
        ratios = {cell(record): record.speedup for record in same}
        values = [ratio.value for ratio in ratios.values() if ratio is not None]
        if len(values) == len(cells):
            yield Mean(like=same[0], ratio=geometric_mean(values), count=len(values))


def join_means(records: Sequence[Join]) -> Iterator[Mean[Join]]:
    """Average concat / add over the shapes of each comparison, engine, layout and batch size."""
    for same in _groups(sorted(records, key=attrgetter(*JOIN_KEY)), JOIN_KEY):
        if ratios := [record.ratio.value for record in same if record.ratio]:
            yield Mean(like=same[0], ratio=geometric_mean(ratios), count=len(ratios))


def _groups(records: Sequence[R], key: Sequence[str]) -> Iterable[list[R]]:
    groups: dict[object, list[R]] = {}
    for record in records:
        groups.setdefault(attrgetter(*key)(record), []).append(record)
    return groups.values()


def repeatability(runs: Sequence[Sequence[Latency]]) -> Repeatability:
    """Count how often the ratio of one run lies in the interval that another run of the same thing stated for it.

    Args:
        runs: The records of each run, in the same order. References and controls are left out.
    """
    found = Repeatability(runs=len(runs), compared=0, within=0, ratios=[])
    for same in zip(*runs, strict=True):
        first = same[0]
        ratios = [record.speedup for record in same if record.speedup is not None]
        if len(ratios) < len(runs) or first.is_reference or first.structure == CONTROL:
            continue
        identity = {name: getattr(first, name) for name in Repeated.__struct_fields__ if name != "speedups"}
        found.ratios.append(Repeated(**identity, speedups=ratios))
        for stated, other in itertools.permutations(ratios, 2):
            if stated.repeat_low is not None and stated.repeat_high is not None:
                found.compared += 1
                found.within += stated.repeat_low <= other.value <= stated.repeat_high
    return found
