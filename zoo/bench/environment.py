"""What a measured figure belongs to: the machine, its load, and the versions of everything that computes."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "timm", "numpy", "onnx", "onnxruntime", "openvino", "nncf")

FEATURES = {
    "avx2": "avx2",
    "avx512": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_bf16": "amx_bf16",
    "amx_int8": "amx_int8",
    "neon": "asimd",
    "arm_bf16": "bf16",
    "arm_i8mm": "i8mm",
}
"""Our name of an instruction set → its flag in /proc/cpuinfo."""


def environment() -> dict[str, Any]:
    """Machine, load and versions as a JSON-able dict; what cannot be found out is absent or None."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu(),
        "gpus": gpus(),
        "memory_gb": memory_gb(),
        "os": f"{platform.system()} {platform.release()}",
        "load_average": load_average(),
        "torch_threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit(),
    }


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Model name, logical CPUs that this process may use, and the instruction sets that matter here."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return {
        "model": fields.get("model name") or platform.processor() or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "features": [name for name, flag in FEATURES.items() if flag in flags],
    }


def gpus() -> list[str]:
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def memory_gb() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def load_average() -> list[float] | None:
    """1, 5 and 15 minutes; None on systems that keep none."""
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None


def versions() -> dict[str, str]:
    """Python's and the installed packages' versions."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(directory: Path = Path(__file__).parent) -> str | None:
    """The git commit of a checkout, with '+' appended where tracked files differ from it; None outside of one."""
    head = _git(directory, "rev-parse", "--short=12", "HEAD")
    if head is None or _git(directory, "ls-files", "--error-unmatch", str(directory)) is None:
        return None
    return head + ("+" if _git(directory, "status", "--porcelain", "--untracked-files=no") else "")


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
