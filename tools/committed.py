"""The committed results, read from the files under results/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.utils import natural_key

from zoo.results.files import Result, read_result

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
Row = dict[str, Any]


def result(name: str) -> Result[Any]:
    """A committed result by its name under results/."""
    return read_result(RESULTS / f"{name}.json")


def measured(name: str) -> list[Any]:
    """Those records of a result that have figures."""
    return [record for record in result(name).records if record.status == "ok"]


def benchmarks(pattern: str = "*") -> list[str]:
    """Names of the benchmark results that match, in natural order."""
    files = (RESULTS / "benchmark").glob(f"{pattern}.json")
    return sorted((f"benchmark/{file.stem}" for file in files), key=natural_key)


def machine(name: str) -> str:
    """Where a result was made."""
    where = result(name).environment
    packages = ", ".join(f"{name} {where.versions[name]}" for name in ("torch", "timm", "onnxruntime", "openvino"))
    features = ", ".join(where.cpu.features)
    no_bf16 = "" if "bf16" in features else " This CPU has no bf16 arithmetic, so bf16 is not measured."
    return f"{where.cpu.model}, {where.cpu.cpus} CPUs ({features}), {packages}.{no_bf16}"
