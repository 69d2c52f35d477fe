"""The machine's own limits, measured: how fast it multiplies matrices and how fast it moves memory.

A network's MACs per second mean something beside them: a share of the GEMM rate near 1 says that arithmetic is the
limit, a small one that memory traffic or dispatch is.
"""

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from zoo.bench.timing import Clock, clock_of
from zoo.export.compile import BUILDERS
from zoo.export.engines import DTYPES, Source, refusal

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
    clock = clock_of(device)

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
    return torch.randn(size, size, device=device).to(DTYPES[precision])


def engine_peak(
    engine: str, precision: str, device: torch.device, *, size: int = GEMM_SIZE, seconds: float = 0.5
) -> float | None:
    """Best multiply-accumulates per second of the same product on an engine: a 1x1 convolution of `size` pixels.

    None where the engine does not run at this precision here. Engines have kernels of their own: torch's product in
    bf16 may be emulated where OpenVINO's is not.
    """
    if refusal(engine, precision, device.type) is not None:
        return None
    side = math.isqrt(size)
    images = torch.randn(1, size, side, side, device=device)
    conv = nn.Conv2d(size, size, 1, bias=False, device=device).eval()
    try:
        run = BUILDERS[engine](Source(conv, images, (images,), torch.get_num_threads()), precision)
        return size**2 * side**2 / _best_time(lambda: run(images), clock_of(device), seconds)
    except (ValueError, RuntimeError):  # what engines raise on what they cannot take
        return None


def triad_bandwidth(device: torch.device, *, elements: int = TRIAD_ELEMENTS, seconds: float = 0.5) -> float:
    """Best bytes per second of a = b + s · c in float32 (STREAM's triad: two arrays read, one written)."""
    a, b, c = (torch.ones(elements, device=device) for _ in range(3))
    best = _best_time(lambda: torch.add(b, c, alpha=3.0, out=a), clock_of(device), seconds)
    return 3 * 4 * elements / best


def measure_peaks(
    precisions: Sequence[str], device: torch.device, engines: Sequence[str] = (), *, seconds: float = 0.5
) -> dict[str, float]:
    """Measure what there is of `gemm_<precision>` and `gemm_<precision>_<engine>` in MACs/s, and `triad` in bytes/s."""
    peaks: dict[str, float | None] = {}
    for precision in precisions:
        peaks[f"gemm_{precision}"] = gemm_peak(precision, device, seconds=seconds)
        for engine in engines:
            peaks[f"gemm_{precision}_{engine}"] = engine_peak(engine, precision, device, seconds=seconds)
    peaks["triad"] = triad_bandwidth(device, seconds=seconds)
    return {name: peak for name, peak in peaks.items() if peak is not None}


def _best_time(call: Callable[[], object], clock: Clock, seconds: float) -> float:
    """The shortest of repeated calls: a peak is what the machine can do when nothing disturbs it."""
    deadline = time.perf_counter() + seconds
    clock.time(call, 1)
    best = clock.time(call, 1)
    while time.perf_counter() < deadline:
        best = min(best, clock.time(call, 1))
    return best
