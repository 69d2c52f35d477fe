"""Result files: what was measured, with what, on which machine. JSON, written whole or not at all."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from zoo.atomic import atomic_write
from zoo.bench.environment import environment
from zoo.bench.memory import is_out_of_memory

SCHEMA = 1

Row = dict[str, Any]
"""One line of a table: settings, `status`, figures. The keys are documented in docs/benchmarking.md."""

CONTROL = "control"
"""The structure of a second copy of a group's reference: how far two identical contenders differ."""


def document(kind: str, rows: list[Row], **extra: Any) -> dict[str, Any]:
    """A result with its provenance.

    Args:
        kind: latency, concat-add, train or profile: which tables and plots `report` makes of it.
        rows: JSON-able; NaN becomes null.
        extra: Anything else of this kind (peaks, warnings, settings).
    """
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    head = {"schema": SCHEMA, "kind": kind, "command": command, "environment": environment()}
    return without_nan({**head, **extra, "rows": rows})


def failure(error: BaseException) -> Row:
    """`status` and `error` of a row that could not be measured."""
    status = "out of memory" if is_out_of_memory(error) else "unsupported"
    return {"status": status, "error": str(error).strip().split("\n", 1)[0][:200] or type(error).__name__}


def without_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for "not known"."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    return value


def write(path: str | Path, result: dict[str, Any]) -> None:
    """Write a document to a file, creating its folder. Raises OSError, naming the file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


def read(path: str | Path) -> dict[str, Any]:
    """Read a document that `write` wrote.

    Raises:
        ValueError: No such file, not JSON, or not a result of a schema we know; names the file.
    """
    try:
        result = json.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a readable result file ({error})") from None
    if not isinstance(result, dict) or result.get("schema") != SCHEMA or "kind" not in result:
        raise ValueError(f"{path}: not a result of benchmark.py (schema {SCHEMA}); write one with --results-file")
    return result
