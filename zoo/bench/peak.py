"""The machine's own limits, measured: how fast it multiplies matrices and how fast it moves memory.

A network's MACs per second mean something beside them: a share of the GEMM rate near 1 says that arithmetic is the
limit, a small one that memory traffic or dispatch is.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from zoo.bench.timing import Clock, CudaClock, HostClock

GEMM_SIZE = 1024
TRIAD_ELEMENTS = 16 * 2**20
"""64 MB of float32 per array: three of them are past every cache."""


def gemm_peak(precision: str, device: torch.device, *, size: int = GEMM_SIZE, seconds: float = 0.5) -> float | None:
    """Best multiply-accumulates per second of a square matrix product; None where torch has no such product.

    Args:
        precision: fp32, bf16, fp16 or int8 (int8 x int8 → int32).
        device: Where to multiply; the threads are torch's current ones.
        size: Rows, columns and depth.
        seconds: Bound on the repetitions.
    """
    # torch's int8 product has no public name.
    product = torch._int_mm if precision == "int8" else torch.mm
    clock = _clock(device)

    def best_time(size: int, seconds: float) -> float:
        operands = [_matrix(precision, size, device) for _ in range(2)]
        return _best_time(lambda: product(*operands), clock, seconds)

    probe = size // 8
    try:
        probed = best_time(probe, seconds)
    except RuntimeError:
        return None
    if probed * 8**3 > seconds:  # a precision that this machine only emulates: the small product has to do
        return probe**3 / probed
    return size**3 / best_time(size, seconds)


def _matrix(precision: str, size: int, device: torch.device) -> torch.Tensor:
    if precision == "int8":
        return torch.randint(-128, 128, (size, size), dtype=torch.int8, device=device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.randn(size, size, device=device).to(dtype)


def triad_bandwidth(device: torch.device, *, elements: int = TRIAD_ELEMENTS, seconds: float = 0.5) -> float:
    """Best bytes per second of a = b + s · c in float32 (STREAM's triad: two arrays read, one written)."""
    a, b, c = (torch.ones(elements, device=device) for _ in range(3))
    best = _best_time(lambda: torch.add(b, c, alpha=3.0, out=a), _clock(device), seconds)
    return 3 * 4 * elements / best


def measure_peaks(precisions: list[str], device: torch.device, *, seconds: float = 0.5) -> dict[str, float]:
    """`gemm_<precision>` in MACs/s for each precision that there is, and `triad` in bytes/s."""
    peaks = {f"gemm_{p}": peak for p in precisions if (peak := gemm_peak(p, device, seconds=seconds)) is not None}
    return peaks | {"triad": triad_bandwidth(device, seconds=seconds)}


def _clock(device: torch.device) -> Clock:
    return CudaClock() if device.type == "cuda" else HostClock()


def _best_time(call: Callable[[], object], clock: Clock, seconds: float) -> float:
    """The shortest of repeated calls: a peak is what the machine can do when nothing disturbs it."""
    deadline = time.perf_counter() + seconds
    clock.time(call, 1)
    best = clock.time(call, 1)
    while time.perf_counter() < deadline:
        best = min(best, clock.time(call, 1))
    return best
