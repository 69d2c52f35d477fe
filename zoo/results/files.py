"""Result files: the records of one run with where and how it was made, as JSON, written whole or not at all."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from zoo.atomic import atomic_write
from zoo.results.environment import Environment, environment
from zoo.results.records import Join, Latency, LayerTime, Record, Repeatability, TrainStep
from zoo.results.surveys import Conversion, Exported, Folding, TrainingRun

SCHEMA = 2

R = TypeVar("R", bound=Record)

KINDS: dict[str, type[Record]] = {
    "latency": Latency,
    "concat-add": Join,
    "train": TrainStep,
    "profile": LayerTime,
    "conversion": Conversion,
    "folding": Folding,
    "formats": Exported,
    "training": TrainingRun,
}
"""Kind of a result → its records."""


class Result(Struct, Generic[R], kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The records of one run.

    settings: What was the same for all records and is not in them. peaks: Threads → the machine's measured limits
        (see `zoo.bench.peak`). repeatability: Of a command that ran more than once.
    """

    schema: int
    kind: str
    command: str
    environment: Environment
    records: list[R]
    settings: dict[str, Any] = {}
    peaks: dict[str, dict[str, float]] = {}
    repeatability: Repeatability | None = None
    interrupted: bool = False
    seconds: float | None = None


def result_of(kind: str, records: Sequence[R], **extra: Any) -> Result[R]:
    """Records with their provenance: this program's command line, this machine, now."""
    assert all(isinstance(record, KINDS[kind]) for record in records), kind
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    head = {"schema": SCHEMA, "kind": kind, "command": command, "environment": environment()}
    return Result(**head, records=list(records), **extra)


def to_json(value: Any) -> str:
    """One line of JSON; what is not a number is null."""
    return msgspec.json.encode(value).decode()


def write_result(path: str | Path, result: Result[Any]) -> None:
    """Write a result, creating its folder. Raises OSError, naming the file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


class _Head(Struct):
    schema: int
    kind: str


def read_result(path: str | Path) -> Result[Any]:
    """Read what `write_result` wrote, every field checked.

    Raises:
        ValueError: No such file, not JSON, another schema or kind, or a field that does not belong or has the wrong
            type; one line that names the file.
    """
    try:
        content = Path(path).read_bytes()
        head = msgspec.json.decode(content, type=_Head)
        if head.schema != SCHEMA:
            raise ValueError(f"schema {head.schema}, this version reads {SCHEMA}: measure anew")
        if head.kind not in KINDS:
            raise ValueError(f"kind {head.kind!r}, known are {', '.join(KINDS)}")
        return msgspec.json.decode(content, type=Result[KINDS[head.kind]])
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ValueError(f"{path}: not a result file of ours ({reason}); write one with --results-file") from None
