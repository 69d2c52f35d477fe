"""What to compute on, in which precision, with which memory: defaults chosen by what the machine has."""

import ctypes
import os
import sys
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from zoo.engine.messages import first_line

# <malloc.h> of glibc
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -3, -4, -8


def keep_memory() -> bool:
    """Have glibc keep freed memory instead of returning every large tensor to the kernel; is that done now?

    Each training step otherwise faults its activations in anew, page by page (RepVGG-A0: 226,000 a step).
    Does nothing where the allocator is not glibc's or the user has set it by environment.
    """
    if sys.platform != "linux" or any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD")):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # M_MMAP_THRESHOLD is capped at 32 MiB, M_MMAP_MAX 0 is not; one arena, as only the first can grow so.
    settings = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 << 20}
    accepted = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(accepted)


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(threads: int | None, processes_here: int = 1) -> None:
    """Use `threads`, or else what OMP_NUM_THREADS says, or else an equal share of the cores per process."""
    if threads or "OMP_NUM_THREADS" not in os.environ or processes_here > 1:
        torch.set_num_threads(threads or max(1, available_cores() // processes_here))


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is this process's GPU if there is one. Raises: ValueError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local_rank)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {name!r} is not available: {first_line(error)}") from error
    return device


def choose_dtype(choice: str, device: torch.device, model: nn.Module) -> torch.dtype:
    """The autocast precision; float32 means no autocast.

    `auto` is bfloat16 on GPUs that compute in it, and on CPUs with AMX for networks without depthwise
    convolutions (measured: dense networks 2.4 times as fast, depthwise ones slower), else float32.
    """
    if choice != "auto":
        return getattr(torch, choice)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    # torch.cpu has no public question for AMX
    amx = device.type == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    depthwise = any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in model.modules())
    return torch.bfloat16 if amx and not depthwise else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """The autocast context of a precision."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
