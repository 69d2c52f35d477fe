"""The papers' tables as data: what was printed, where, and by which convention.

The figures are in the YAML files beside this module. Nothing here imports torch, so that the registry and
`zoo list` can read them at no cost.
"""

import functools
from collections.abc import Mapping
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from importlib import resources
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from zoo.nearest import did_you_mean

PAPERS = ("repvgg", "qarepvgg", "dbb", "acnet", "repghost", "mobileone", "orepa")
COMPUTED = ("params", "macs", "winograd_muls")
ACCURACY = ("top1", "top5")
VALIDATION_IMAGES = {"ImageNet": 50_000, "CIFAR-10": 10_000, "CIFAR-100": 10_000}
MEASURED = ("latency", "throughput", "train_step", "train_memory")


class Weights(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where released weights are, and what they score when somebody else evaluates them.

    hub: Hugging Face model id (timm's), for `pretrained=True`. url: the authors' file or folder.
    note: what to do by hand, or that none were released. top1, top5 (%), img_size, crop_pct, source: timm's
    evaluation of the hub weights.
    """

    hub: str | None = None
    url: str | None = None
    note: str | None = None
    top1: float | None = None
    top5: float | None = None
    img_size: int | None = None
    crop_pct: float | None = None
    source: str | None = None


class Published(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was published of a registered network: accuracy in %, parameters in millions, as printed."""

    source: str
    weights: Weights
    top1: float | None = None
    top5: float | None = None
    params_M: float | None = None


class Column(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One column of a table and how its paper prints it.

    kind: one of COMPUTED, ACCURACY, MEASURED. scale: what one printed unit is (1e6 for "M"). digits, rounding
    ("half_up" or "down", i.e. truncated): how the paper rounds. structure: "train" or "deployed", the one
    whose figure it is. prefix: put before the row's model (DBB Table 2 has a column per block).
    """

    key: str
    label: str
    kind: str
    digits: int
    scale: float = 1
    rounding: str = "half_up"
    structure: str = "deployed"
    unit: str = ""
    prefix: str = ""
    protocol: str = ""

    def text(self, value: float) -> str:
        """`value`, in units of one (parameters, seconds, per cent), as the paper would print it."""
        mode = ROUND_DOWN if self.rounding == "down" else ROUND_HALF_UP
        return str((Decimal(str(value)) / Decimal(self.scale)).quantize(Decimal(1).scaleb(-self.digits), mode))

    def printed(self, value: float | str) -> str:
        """A published figure, already in the column's unit, with the digits it was printed with."""
        return value if isinstance(value, str) else f"{value:.{self.digits}f}"


class Row(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row: a network (None if it is not in the zoo) and its published figures by column key.

    block: the branch set, where it is not the network's own. unverified: columns whose figure no source
    confirms. approximate: the figures were read off a picture. stride_in_first_1x1: the original ResNet.
    images: what accuracies are of, a key of VALIDATION_IMAGES. why_not: one sentence why the zoo has no such network.
    """

    name: str
    values: Mapping[str, float | str]
    model: str | None = None
    block: str | None = None
    input_size: int = 224
    unverified: tuple[str, ...] = ()
    approximate: bool = False
    stride_in_first_1x1: bool = False
    images: str = "ImageNet"
    why_not: str = ""

    def __post_init__(self) -> None:
        assert bool(self.model) != bool(self.why_not), f"{self.name}: either a network or why there is none"

    def published(self, column: Column) -> str | None:
        """The figure as printed, "~" before one read off a picture; None if there is no confirmed one."""
        if column.key not in self.values or column.key in self.unverified:
            return None
        return ("~" if self.approximate else "") + column.printed(self.values[column.key])


class Erratum(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Printed figures of a column that its convention does not give: why, and what it gives, by row."""

    why: str
    ours: Mapping[str, float]


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published table. reference: the row that latency ratios are taken to."""

    name: str
    title: str
    source: str
    paper: Mapping[str, str]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    reference: str | None = None
    note: str = ""
    errata: dict[str, Erratum] = {}


def published(name: str) -> Published | None:
    """What was published of the network registered as `name`; None if nothing was."""
    return _load()[1].get(name)


def tables() -> list[Table]:
    """Every table, in the order of PAPERS."""
    return list(_load()[0].values())


def images_of(model: str) -> str:
    """Name the validation images that the tables judge a network by, a key of VALIDATION_IMAGES."""
    for table in tables():
        for row in table.rows:
            if row.model and model in {column.prefix + row.model for column in table.columns}:
                return row.images
    return "ImageNet"


def table(name: str) -> Table:
    """The table called `name`.

    Raises:
        ValueError: there is none; the message lists near names.
    """
    known = _load()[0]
    if name not in known:
        raise ValueError(f"unknown table {name!r}; {did_you_mean(name, known, 'known: ' + ', '.join(known))}")
    return known[name]


@functools.cache
def _load() -> tuple[dict[str, Table], dict[str, Published]]:
    known: dict[str, Table] = {}
    models: dict[str, Published] = {}
    for paper in PAPERS:
        data = yaml.safe_load(resources.files("zoo.published").joinpath(f"{paper}.yaml").read_text("utf-8"))
        known |= {name: _table(name, entry, data["paper"]) for name, entry in data["tables"].items()}
        models |= msgspec.convert(data["models"], dict[str, Published])
    return known, models


def _table(name: str, entry: dict[str, Any], paper: Mapping[str, str]) -> Table:
    """A table of a YAML file, where a row has its figures beside its other entries, and a protocol names its column."""
    keys, protocol = entry["columns"], entry.pop("protocol", {})
    columns = [{"key": key, "protocol": protocol.get(key, ""), **column} for key, column in keys.items()]
    assert all(column["kind"] in COMPUTED + ACCURACY + MEASURED for column in columns), name
    for row in entry["rows"]:
        row["values"] = {key: row.pop(key) for key in keys if key in row}
    return msgspec.convert({**entry, "name": name, "paper": paper, "columns": columns}, Table)
