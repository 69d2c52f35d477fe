"""What many rows come down to: geometric means of their ratios."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from zoo.bench.results import CONTROL, Row
from zoo.bench.statistics import geometric_mean


def geometric_means(rows: Sequence[Row]) -> list[Row]:
    """Mean speed-up of each structure, engine and precision over all models, batch sizes and resolutions.

    Only combinations that every model and setting has are averaged, so that no mean leaves a slow network out.
    """

    def cell(row: Row) -> tuple[Any, ...]:
        return row["model"], row["batch_size"], row["img_size"], row["threads"]

    rows = [row for row in rows if row["structure"] != CONTROL]
    cells = {cell(row) for row in rows}
    means = []
    for kind in dict.fromkeys((row["structure"], row["engine"], row["precision"]) for row in rows):
        mine = [r for r in rows if (r["structure"], r["engine"], r["precision"]) == kind and r["status"] == "ok"]
        if {cell(row) for row in mine} == cells:
            mean = dict(zip(("structure", "engine", "precision"), kind, strict=True))
            speedup = geometric_mean([row["speedup"]["value"] for row in mine])
            means.append({**mean, "count": len(mine), "speedup": speedup})
    return means


def over_stages(rows: Sequence[Row]) -> list[Row]:
    """Concat / add of each comparison, engine, layout and batch size, as the geometric mean over the shapes."""
    names = ("comparison", "engine", "layout", "batch_size")
    measured = sorted((r for r in rows if r["status"] == "ok"), key=lambda r: [str(r[n]).zfill(4) for n in names])
    means = []
    for group, members in itertools.groupby(measured, key=lambda r: tuple(r[n] for n in names)):
        ratios = [row["ratio"]["value"] for row in members]
        mean = dict(zip(names, group, strict=True))
        means.append({**mean, "ratio": geometric_mean(ratios), "count": len(ratios)})
    return means


def repeatability(runs: Sequence[Sequence[Row]]) -> Row:
    """How often the ratio of one run lies in the interval that another run of the same thing stated for it.

    Args:
        runs: The rows of each run, in the same order. References and controls are left out.
    """
    compared = within = 0
    ratios = []
    for same in zip(*runs, strict=True):
        if any(row["status"] != "ok" or "warning" not in row for row in same):
            continue
        reported = [row["speedup"] for row in same]
        ratios.append({**{name: same[0].get(name) for name in IDENTITY}, "speedups": reported})
        for stated, other in itertools.permutations(reported, 2):
            compared += 1
            within += stated["repeat_low"] <= other["value"] <= stated["repeat_high"]
    return {"runs": len(runs), "compared": compared, "within": within, "rows": ratios}


IDENTITY = ("model", "structure", "engine", "precision", "batch_size", "img_size", "threads")
