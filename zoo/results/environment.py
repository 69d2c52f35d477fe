"""Describe the setting of a measured figure: the machine, its load, and the versions of everything that computes."""

import functools
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from msgspec import Struct

from zoo.cores import available_cores

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "ncnn",
    "pnnx",
    "MNN",
    "litert-torch",
    "executorch",
    "coremltools",
)

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
"""Our name of an instruction set → the kernel's."""


class Cpu(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Model name, logical CPUs that this process may use, and the instruction sets that matter here."""

    model: str
    cpus: int | None
    features: list[str]


class Environment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Machine, load (over 1, 5 and 15 minutes) and versions; None where it cannot be found out."""

    date: str
    cpu: Cpu
    gpus: list[str]
    memory_gb: float | None
    os: str
    load_average: list[float] | None
    torch_threads: int
    versions: dict[str, str]
    commit: str | None


def environment() -> Environment:
    """Describe this machine, now."""
    import psutil
    import torch  # here, as reading results needs neither

    return Environment(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        cpu=cpu(),
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        os=f"{platform.system()} {platform.release()}",
        load_average=[round(load, 2) for load in psutil.getloadavg()],
        torch_threads=torch.get_num_threads(),
        versions=versions(),
        commit=commit(),
    )


@functools.cache
def cpu() -> Cpu:
    """Describe the CPU; takes about a second, once."""
    import cpuinfo

    info = cpuinfo.get_cpu_info()
    flags = set(info.get("flags", ()))
    return Cpu(
        model=info.get("brand_raw") or platform.processor() or platform.machine(),
        cpus=available_cores(),
        features=[name for name, flag in FEATURES.items() if flag in flags],
    )


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
    if _git(directory, "ls-files", "--error-unmatch", str(directory)) is None:
        return None
    return _git(directory, "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+")


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
