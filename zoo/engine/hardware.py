"""Device, precision and memory: defaults chosen by what the machine has."""

import ctypes
import dataclasses
import os
import sys
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from zoo.cores import available_cores, check_crowd
from zoo.engine.config import HardwareConfig
from zoo.engine.distributed import Processes
from zoo.mishaps import first_line

# <malloc.h> of glibc
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8


def prepare(config: HardwareConfig) -> Processes:
    """Settle this process's memory, device and threads. Raises: ValueError for what is not there."""
    keep_memory()
    processes = Processes.from_environment()
    device = choose_device(config.device, processes.local_rank)
    set_threads(config.threads, processes.local_world_size)
    return dataclasses.replace(processes, device=device)


def place(network: nn.Module, config: HardwareConfig, device: torch.device) -> nn.Module:
    """Put a network on a device, in the memory layout asked for."""
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return network.to(device=device).to(memory_format=layout)  # pyright: ignore[reportCallIssue] (not in torch's stub)


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


def set_threads(threads: int | None, processes_here: int = 1) -> None:
    """Use `threads`, or else what OMP_NUM_THREADS says, or else an equal share of the cores per process.

    Raises: ValueError for more than the machine bears.
    """
    if threads or "OMP_NUM_THREADS" not in os.environ or processes_here > 1:
        torch.set_num_threads(check_crowd("threads", threads or max(1, available_cores() // processes_here)))


def choose_workers(workers: int | None, processes_here: int = 1) -> int:
    """Choose how many processes load data: as asked, else a core each, shared between the processes here, at most 4.

    Raises: ValueError for more than the machine bears.
    """
    if workers is None:
        return max(1, min(4, available_cores() // processes_here))
    return check_crowd("workers", workers)


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is this process's GPU if there is one. Raises: ValueError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local_rank)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {name!r} is not available: {first_line(error)}") from error
    return device


def choose_dtype(choice: str, device: torch.device, model: nn.Module) -> torch.dtype:
    """The autocast precision; float32 means no autocast.

    `auto` is bfloat16 on GPUs that compute in it, and on CPUs with AMX for networks without depthwise
    convolutions (which lose by it), else float32.
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
