"""The timing loop: contenders in turn, A B C A B C …, after a warm-up until stable, within a bound of time."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import psutil
import torch
from torch import Tensor

from zoo.bench.config import Plan

Call = Callable[[], object]
OnRound = Callable[[int], None]
"""Told the number of finished rounds (progress bars)."""

MIN_SAMPLE = 2e-3
"""Seconds a sample lasts at least; faster calls are repeated inside it, so that the clock's cost does not count."""


class Clock(Protocol):
    """Measures a number of calls, in seconds."""

    def time(self, call: Call, number: int) -> float: ...


class HostClock:
    """The wall clock: right for engines that return when the work is done (everything on the CPU)."""

    def time(self, call: Call, number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            call()
        return time.perf_counter() - start


class CudaClock:
    """CUDA events around the calls, on the current stream.

    A kernel launch returns before its kernel ran, so the wall clock would time the launches. The device is idle when
    the first event is recorded, and `elapsed_time` is asked only after the second one has happened.
    """

    def __init__(self, cuda: Any = torch.cuda) -> None:
        self.cuda = cuda

    def time(self, call: Call, number: int) -> float:
        start, end = (self.cuda.Event(enable_timing=True) for _ in range(2))
        self.cuda.synchronize()
        start.record()
        for _ in range(number):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000  # milliseconds


def inference(network: Callable[[Tensor], Any], images: Tensor) -> Callable[[], Any]:
    """A call of a network without gradients."""
    return torch.inference_mode()(partial(network, images))


def clock_of(device: torch.device | str) -> Clock:
    """Choose the clock for work on a device."""
    return CudaClock() if torch.device(device).type == "cuda" else HostClock()


@dataclass(kw_only=True)
class Warmup:
    """Outcome of a warm-up: how many calls it took, whether they became stable, and the time of one call in seconds."""

    calls: int
    stable: bool
    seconds_per_call: float


@dataclass(kw_only=True)
class Timings:
    """Samples of the loop. Entry i of every list comes from round i, so that samples are paired.

    Attributes:
        samples: Contender → seconds per call, one per round.
        other_cpu: Contender → mean number of CPUs that other processes kept busy during the sample; NaN if unknown.
        calls: Contender → calls per sample (its inner loop).
        stable: Contender → whether its warm-up became stable.
    """

    samples: dict[str, list[float]] = field(default_factory=dict)
    other_cpu: dict[str, list[float]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    stable: dict[str, bool] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        return min((len(s) for s in self.samples.values()), default=0)


def warm_up(call: Call, clock: Clock, seconds: float) -> Warmup:
    """Call until two neighbouring triples of calls agree within 5 % (median), or the time is over.

    The first call compiles, allocates and fills caches; it is never part of the judgement.
    """
    deadline = time.perf_counter() + seconds
    clock.time(call, 1)
    times = [clock.time(call, 1)]
    while True:
        if len(times) >= 6:
            before, after = float(np.median(times[-6:-3])), float(np.median(times[-3:]))
            if abs(after - before) <= 0.05 * before:
                return Warmup(calls=len(times) + 1, stable=True, seconds_per_call=after)
        if time.perf_counter() >= deadline:
            return Warmup(calls=len(times) + 1, stable=False, seconds_per_call=float(np.median(times[-3:])))
        times.append(clock.time(call, 1))


def interleave(
    contenders: Mapping[str, Call],
    plan: Plan,
    *,
    clock: Clock | None = None,
    on_round: OnRound = lambda done: None,
) -> Timings:
    """Time contenders in rounds, one sample of each per round.

    Args:
        contenders: Name → what to call. All stay alive together: they must fit in memory at once.
        plan: Rounds and time bounds.
        clock: See `clock_of`; by default that of the CPU.

    Raises:
        ValueError: No contenders.
    """
    if not contenders:
        raise ValueError("nothing to time")
    clock = clock or HostClock()
    timings = Timings()
    for name, call in contenders.items():
        warmed = warm_up(call, clock, plan.warmup_seconds)
        timings.stable[name] = warmed.stable
        timings.calls[name] = max(1, round(MIN_SAMPLE / max(warmed.seconds_per_call, 1e-9)))
        timings.samples[name], timings.other_cpu[name] = [], []

    for done in _rounds(plan):
        for name, call in contenders.items():
            before = cpu_times()
            elapsed = clock.time(call, timings.calls[name])
            timings.other_cpu[name].append(other_cpus(before, cpu_times()))
            timings.samples[name].append(elapsed / timings.calls[name])
        on_round(done)
    return timings


def _rounds(plan: Plan) -> Iterator[int]:
    """1, 2, 3, … until the plan's rounds are done or its time is over, whole rounds only."""
    start = time.perf_counter()
    for done in range(1, plan.rounds + 1):
        yield done
        spent = time.perf_counter() - start
        if spent + spent / done > plan.seconds:
            return


@dataclass(frozen=True)
class CpuTimes:
    """Seconds since boot (machine) or start (own process), and when they were read."""

    machine_busy: float
    own: float
    at: float


def cpu_times() -> CpuTimes:
    """Read the working time so far of all CPUs and of this process."""
    times = psutil.cpu_times()
    # Guests are counted in `user` already; stolen time is other machines' work on our CPUs.
    busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    return CpuTimes(machine_busy=busy, own=time.process_time(), at=time.perf_counter())


def other_cpus(before: CpuTimes, after: CpuTimes) -> float:
    """Mean number of CPUs that others kept busy between two readings; NaN if no time lies between them.

    The kernel counts in ticks of 10 ms, so a short sample's figure is coarse; the mean over a run is not.
    """
    if after.at <= before.at:
        return float("nan")
    others = (after.machine_busy - before.machine_busy) - (after.own - before.own)
    return others / (after.at - before.at)
