"""Accuracies the user measured: validate's result files, timm's CSV, any records of model, top1 and top5."""

import csv
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from zoo.published.tables import VALIDATION_IMAGES, images_of

Percent = Annotated[float, Meta(ge=0, le=100)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Measured accuracy in per cent, and the file it came from."""

    top1: float
    top5: float | None
    file: str


Accuracies = dict[tuple[str, str | None], Accuracy]
"""(model, block) → accuracy; block is None where the network has its own."""


class _Score(Struct):
    """A record of a result file; it may hold other things too."""

    model: Annotated[str, Meta(min_length=1)]
    top1: Percent
    top5: Percent | None = None
    block: str | None = None
    count: int | None = None
    distort: str = "none"


def read_results(files: Iterable[str | Path]) -> Accuracies:
    """Read result files; of a network's records in one file the first counts, of its files the last.

    JSON: one record or a list of them. CSV: one record a line, named by the header. A record has `model`,
    `top1` and, if known, `top5` (per cent), `count` (images), and `block` where the branch set is not the
    network's own. validate's files are such records: of each structure, weights and `distort`.

    Raises:
        ValueError: unreadable file, missing or ill-typed key, or a record of other images than the validation set that
            the tables judge the network by, or of these distorted.
    """
    accuracies: Accuracies = {}
    for file in files:
        found: Accuracies = {}
        for number, record in enumerate(_records(Path(file)), 1):
            where = f"{file}: record {number}"
            try:
                score = msgspec.convert(record, _Score, strict=False)
            except msgspec.ValidationError as error:
                known = ", ".join(_Score.__struct_fields__)
                raise ValueError(f"{where}: {error}; a record has {known}, all but the first two if known") from None
            images = images_of(score.model)
            if score.count not in (None, wanted := VALIDATION_IMAGES[images]):
                raise ValueError(
                    f"{where}: evaluated on {score.count} images, not on {images}'s {wanted} of validation"
                )
            if (key := (score.model, score.block)) in found:
                continue
            if score.distort != "none":
                raise ValueError(
                    f"{where}: evaluated on distorted images ({score.distort}); validate without --distort"
                )
            found[key] = Accuracy(top1=score.top1, top5=score.top5, file=str(file))
        accuracies |= found
    return accuracies


def _records(file: Path) -> list[Any]:
    """The records of a file, without cells that are empty."""
    try:
        text = file.read_text("utf-8")
        data = list(csv.DictReader(text.splitlines())) if file.suffix == ".csv" else json.loads(text)
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{file}: not a JSON or CSV file of results: {error}") from None
    data = data.get("rows", data) if isinstance(data, dict) else data
    records = data if isinstance(data, list) else [data]
    return [{k: v for k, v in r.items() if k and v not in ("", None)} if isinstance(r, dict) else r for r in records]
