"""The timing loop, with clocks and calls whose times are known."""

import itertools
import math
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils import benchmark

from zoo.bench import profile
from zoo.bench.timing import (
    MIN_SAMPLE,
    CpuTimes,
    CudaClock,
    HostClock,
    Plan,
    cpu_times,
    interleave,
    other_cpus,
    warm_up,
)


class FakeClock:
    """Calls take what their `seconds` attribute says; remembers who was timed."""

    def __init__(self):
        self.timed = []

    def time(self, call, number):
        self.timed.append((call.name, number))
        return number * call()


class FakeCall:
    def __init__(self, name, seconds, first=None):
        self.name, self.seconds, self.first = name, seconds, list(first or [])

    def __call__(self):
        return self.first.pop(0) if self.first else self.seconds


PLAN = Plan(rounds=4, seconds=60, warmup_seconds=1)


def test_contenders_take_turns():
    clock = FakeClock()
    calls = {name: FakeCall(name, 0.01) for name in "abc"}
    timings = interleave(calls, PLAN, clock=clock)
    assert [name for name, _ in clock.timed[-12:]] == list("abc") * 4
    assert timings.rounds == 4
    assert timings.samples == {name: [0.01] * 4 for name in "abc"}


def test_short_calls_are_repeated_inside_a_sample():
    clock = FakeClock()
    timings = interleave({"tiny": FakeCall("tiny", 1e-5), "large": FakeCall("large", 1.0)}, PLAN, clock=clock)
    assert timings.calls == {"tiny": round(MIN_SAMPLE / 1e-5), "large": 1}
    assert timings.samples["tiny"] == pytest.approx([1e-5] * 4)
    assert clock.timed[-2:] == [("tiny", 200), ("large", 1)]


def test_warm_up_ends_when_times_are_stable():
    call = FakeCall("a", 1.0, first=[9.0, 5.0, 4.0, 3.0])  # 9: the first call, never judged
    warmed = warm_up(call, FakeClock(), seconds=60)
    assert warmed.stable
    assert warmed.seconds_per_call == 1.0
    assert warmed.calls == 9  # 9 | 5 4 3 1 1 | and three more: median(3, 1, 1) = median(1, 1, 1)


def test_warm_up_of_a_restless_call_ends_when_its_time_is_over():
    warmed = warm_up(FakeCall("a", 1.0, first=[2.0**n for n in range(60)]), FakeClock(), seconds=0)
    assert not warmed.stable
    assert warmed.calls == 2


def test_the_time_bound_ends_the_rounds_but_never_the_first():
    timings = interleave({"a": lambda: time.sleep(0.01)}, Plan(rounds=1000, seconds=0.05, warmup_seconds=0))
    assert 1 <= timings.rounds <= 5
    assert len(timings.samples["a"]) == timings.rounds


def test_rounds_are_reported():
    done = []
    interleave({"a": FakeCall("a", 0.01)}, PLAN, clock=FakeClock(), on_round=done.append)
    assert done == [1, 2, 3, 4]


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"seconds": 0}, {"warmup_seconds": -1}])
def test_a_plan_that_measures_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=r"measure nothing|must be positive"):
        Plan(**wrong)


def test_nothing_to_time_is_refused():
    with pytest.raises(ValueError, match="nothing to time"):
        interleave({}, PLAN)


def test_agrees_with_torch_benchmark():
    a = torch.randn(128, 128)
    timer = benchmark.Timer("a @ a", globals={"a": a})
    theirs = min(t for _ in range(5) for t in timer.blocked_autorange(min_run_time=0.1).times)
    timings = interleave({"mm": lambda: a @ a}, Plan(rounds=50, seconds=1, warmup_seconds=0.1))
    ours = min(timings.samples["mm"])
    assert 0.2 < ours / theirs < 5  # the same quantity, on a machine that others use


def test_cuda_time_is_between_events_of_an_idle_device():
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing
            self.name = f"event{len([entry for entry in log if entry.startswith('made')])}"
            log.append(f"made {self.name}")

        def record(self):
            log.append(f"record {self.name}")

        def synchronize(self):
            log.append(f"wait for {self.name}")

        def elapsed_time(self, end):
            log.append(f"read {self.name} to {end.name}")
            return 12.0  # milliseconds

    cuda = SimpleNamespace(Event=Event, synchronize=lambda: log.append("synchronize"))
    assert CudaClock(cuda).time(lambda: log.append("launch"), 3) == pytest.approx(0.012)
    assert log[2:] == [
        "synchronize",
        "record event0",
        *["launch"] * 3,
        "record event1",
        "wait for event1",
        "read event0 to event1",
    ]


def test_host_clock_measures_all_calls():
    count = []
    assert HostClock().time(lambda: (count.append(1), time.sleep(0.002)), 3) >= 0.006
    assert len(count) == 3


def test_work_of_other_processes_is_told_from_ours(monkeypatch):
    fields = {"user": 1.0, "nice": 0.2, "system": 0.3, "idle": 90.0, "iowait": 0.4, "irq": 0.05, "softirq": 0.05}
    times = SimpleNamespace(**fields, steal=0.4, guest=0.07, guest_nice=0.0)
    monkeypatch.setattr("psutil.cpu_times", lambda: times)
    assert cpu_times().machine_busy == pytest.approx(2.0)  # idle, iowait and guest are left out
    before, after = CpuTimes(10.0, 1.0, 100.0), CpuTimes(13.0, 2.0, 102.0)
    assert other_cpus(before, after) == pytest.approx(1.0)  # 3 s busy, 1 s ours, in 2 s


def test_load_between_readings_without_time_is_not_a_number():
    assert math.isnan(other_cpus(CpuTimes(1.0, 1.0, 1.0), CpuTimes(1.0, 1.0, 1.0)))


def test_a_layer_called_twice_lasts_the_sum(monkeypatch):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.unused = nn.Conv2d(2, 2, 1), nn.ReLU()

        def forward(self, x):
            return self.conv(self.conv(x))

    ticks = itertools.count()  # every reading of the clock is one second later
    monkeypatch.setattr(profile.Recorder, "_now", lambda self, args: float(next(ticks)))
    recorder = profile.Recorder(Twice())
    for _ in range(3):
        with recorder.watching():
            recorder.model(torch.ones(1, 2, 4, 4))
    assert recorder.seconds == {"": [5.0] * 3, "conv": [2.0] * 3, "unused": [0.0] * 3}
    setting = {"model": "", "structure": "train", "batch_size": 1, "img_size": 4, "threads": 1}
    records = list(profile._records(recorder, 2, setting))
    assert {r.name: (r.n, r.median) for r in records if r.level == "layer"} == {"conv": (2, 2.0)}
    assert {r.kind: r.median for r in records if r.level == "kind"} == {
        "conv 1x1": 2.0,
        profile.OUTSIDE: 3.0,
    }
