"""The sections of docs/results.md on surveys over many networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from statistics import fmean
from typing import Any

from committed import Row, machine, result

from zoo.results.surveys import Conversion, Folding, TrainingRun
from zoo.results.table import Column, Table, significant
from zoo.results.views import tables


def int8() -> Iterator[str]:
    """Small trained networks in int8, made in every way."""
    found = result("compare_int8")
    runs: dict[str, list[TrainingRun]] = {}
    for run in found.records:
        runs.setdefault(run.variant, []).append(run)
    settings = found.settings
    yield "## int8 of small networks"
    yield (
        "By `tools/compare_int8.py`, from trainings on the bundled images: points of top-1 lost on the 2,000 "
        "validation images, mean over the trainings (and the most). An image is 0.05 points. `mixed precision` is "
        f"chosen on these images, to lose {settings['max_drop']} at most. Weights of ONNX and OpenVINO files have "
        f"{settings['weight_bits']} bits on the CPU that measured, those of MNN files 8. "
        "`of 1`: measured on one of the trainings; nothing: not measured."
    )
    rows: list[Row] = [{"": "trainings", **{name: len(own) for name, own in runs.items()}}]
    rows.append({"": "float32, %", **{name: f"{fmean(run.top1[-1] for run in own):.2f}" for name, own in runs.items()}})
    for way in max((run.results for run in found.records), key=len):
        rows.append({"": way, **{name: _lost(way, own) for name, own in runs.items()}})
    yield Table.of(rows).markdown()


def _lost(way: str, runs: list[TrainingRun]) -> str:
    """Points of top-1 that int8 made this way costs: mean and most, and of how many trainings if not of all."""
    points = [run.top1[-1] - run.results[way] for run in runs if way in run.results]
    fewer = f" of {len(points)}" if len(points) < len(runs) else ""
    return f"{fmean(points):+.2f} ({max(points):+.2f}){fewer}" if points else ""


def formats() -> Iterator[str]:
    """Networks written in every format."""
    (table,) = tables(result("formats"))
    load = result("formats").environment.load_average
    busy = f" Load average {significant(load[0])}." if load else ""
    yield "## Formats"
    yield (
        "By `tools/format_survey.py`: the smallest network of each family, deployed, in every format. "
        f"{table.note} {machine('formats')}{busy}"
    )
    yield table.markdown()


def foldings() -> Iterator[str]:
    """Other people's networks folded."""
    (table,) = tables(result("region_survey"))
    records: list[Folding] = list(table.records)
    yield "## Linear regions of other people's networks"
    libraries = Counter(record.network.partition("/")[0] for record in records)
    whose = " and ".join(f"{count} networks of {library}" for library, count in libraries.items())
    yield f"By `tools/region_survey.py`, {whose}. {table.note} {machine('region_survey')}"
    yield table.markdown()


def conversions() -> Iterator[str]:
    """Other people's networks with our blocks in them."""
    records: list[Conversion] = result("convert_survey").records
    yield "## Conversion of other people's networks"
    yield (
        "By `tools/convert_survey.py`: convolutions replaced (error of the deployed network / rounding noise of the "
        "network itself, relative)."
    )
    rows: dict[str, Row] = {}
    why: dict[str, dict[str, None]] = {}
    for record in records:
        cell = record.status
        if record.status == "ok":
            cell = f"{record.replaced} ({record.relative_error:.0e} / {record.noise_floor:.0e})"
        rows.setdefault(record.network, {"network": record.network})[record.block] = cell
        for reason in record.left if record.status == "ok" else [record.error or ""]:
            why.setdefault(reason, {})[record.network] = None
    yield Table.of(list(rows.values())).markdown()
    yield "Left as they were:"
    columns: list[tuple[str, Callable[[Any], Any]]] = [
        ("reason", lambda item: item[0]),
        ("networks", lambda item: f"{len(item[1])}: {', '.join(list(item[1])[:6])}"),
    ]
    yield Table([Column(*column) for column in columns], list(why.items())).markdown()
