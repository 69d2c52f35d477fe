"""Peak memory: of torch's tensors, exactly; of the whole process, as the kernel saw it."""

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of every tensor made while it is active, as long as it lives.

    Exact and repeatable on any device, in forward and backward, because it follows tensors, not the allocator.
    Tensors made before count nothing; what kernels use inside themselves is not seen.

    Attributes:
        live: Bytes alive now.
        peak: The most that `live` ever was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {self._key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and self._key(leaf) not in before | self._known:
                self._add(leaf.untyped_storage())
        return result

    @staticmethod
    def _key(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def _add(self, storage: torch.UntypedStorage) -> None:
        size, key = storage.nbytes(), storage._cdata
        self.live += size
        self.peak = max(self.peak, self.live)
        self._known.add(key)
        weakref.finalize(storage, self._remove, size, key)

    def _remove(self, size: int, key: int) -> None:
        self.live -= size
        self._known.discard(key)


def tensor_peak(call: Callable[[], object]) -> int:
    """Most bytes of tensors that `call` has alive at once, its result included, beside those that exist already."""
    with TensorMemory() as memory:
        call()
    return memory.peak


def resident_peak(call: Callable[[], object], process: Path = Path("/proc/self")) -> int | None:
    """By how many bytes the process's resident memory rose at most during `call`; None if the kernel does not say.

    For engines outside torch. Memory that the process kept from earlier work hides here: measure first calls.
    """
    marks = process / "clear_refs"
    if not os.access(marks, os.W_OK):
        call()
        return None
    marks.write_text("5")  # reset the high-water mark, see proc(5)
    before = psutil.Process().memory_info().rss
    call()
    lines = (process / "status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return max(0, peak - before)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Within, asking for more memory than the machine has free raises an error instead of ending the process.

    Linux grants any request and kills the process when the pages do not exist; a limit on the address space makes
    the request itself fail, which torch and the engines report. No effect on systems without such limits, nor once
    CUDA is in use, which reserves address space far beyond any memory.
    """
    if not psutil.LINUX or torch.cuda.is_initialized():
        yield
        return
    import resource  # Unix only

    available = available_memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + available
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def available_memory() -> int:
    """Bytes that can be allocated without swapping, within the container's limit."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (int(Path("/sys/fs/cgroup", f"memory.{f}").read_text()) for f in ("max", "current"))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return free
    return max(0, min(free, limit - used))
