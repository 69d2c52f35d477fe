"""Accuracies the user measured: validate's result files, timm's CSV, any records of model, top1 and top5."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Measured accuracy in per cent, and the file it came from."""

    top1: float
    top5: float | None
    file: str


Accuracies = dict[tuple[str, str | None], Accuracy]
"""(model, block) → accuracy; block is None where the network has its own."""


def read_results(files: Iterable[str | Path]) -> Accuracies:
    """Read result files; of a network's records in one file the first counts, of its files the last.

    JSON: one record or a list of them. CSV: one record a line, named by the header. A record has `model`,
    `top1` and, if known, `top5` (per cent), `count` (images), and `block` where the branch set is not the
    network's own. validate's files are such records: of each structure, weights and `distort`.

    Raises:
        ValueError: unreadable file, missing or ill-typed key, or a record of other images than ImageNet's validation
            set, or of these distorted.
    """
    accuracies: Accuracies = {}
    for file in files:
        found: Accuracies = {}
        for number, record in enumerate(_records(Path(file)), 1):
            where = f"{file}: record {number}"
            if not isinstance(record, dict):
                raise ValueError(f"{where}: expected an object with the keys model and top1, got {record!r}")
            if not record.get("model"):
                raise ValueError(f"{where}: no key 'model'; keys are {', '.join(record)}")
            if (count := record.get("count")) not in (None, "", 50000, "50000"):
                raise ValueError(f"{where}: evaluated on {count} images, not on ImageNet's 50000 of validation")
            top1 = _percent(record, "top1", where)
            if top1 is None:
                raise ValueError(f"{where}: no key 'top1'; keys are {', '.join(record)}")
            key = str(record["model"]), record.get("block") or None
            if key in found:
                continue
            if (distort := record.get("distort")) not in (None, "", "none"):
                raise ValueError(f"{where}: evaluated on distorted images ({distort}); validate without --distort")
            found[key] = Accuracy(top1=top1, top5=_percent(record, "top5", where), file=str(file))
        accuracies |= found
    return accuracies


def _records(file: Path) -> list[Any]:
    try:
        text = file.read_text("utf-8")
        if file.suffix == ".csv":
            return list(csv.DictReader(text.splitlines()))
        data = json.loads(text)
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{file}: not a JSON or CSV file of results: {error}") from None
    data = data.get("rows", data) if isinstance(data, dict) else data
    return data if isinstance(data, list) else [data]


def _percent(record: dict[str, Any], key: str, where: str) -> float | None:
    value = record.get(key)
    if value in (None, ""):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 100:
        raise ValueError(f"{where}: {key} must be a number of per cent, got {value!r}")
    return number
