"""What the benchmark counts: memory, traffic, and the limits of the machine."""

import pytest
import torch
from torch import nn

from zoo.bench.memory import bounded_memory, resident_peak, tensor_peak
from zoo.bench.peak import engine_peak, gemm_peak, measure_peaks, triad_bandwidth
from zoo.cost import traffic
from zoo.mishaps import is_out_of_memory

CPU = torch.device("cpu")


def test_tensor_memory_counts_what_is_alive_at_once():
    x = torch.zeros(1000)

    def call():
        first = x + 1
        second = first * 2  # 2 alive
        del first
        third = second.view(10, 100).relu_().view(-1)  # a view and an in-place result: no new memory
        return third - x  # 2 alive

    assert tensor_peak(call) == 2 * 4000


def test_tensor_memory_sees_the_backward_pass():
    x = torch.ones(1000, requires_grad=True)
    assert tensor_peak(lambda: (x * 2).sum().backward()) >= 4000  # the gradient at least
    x.grad = None
    with torch.inference_mode():
        assert tensor_peak(lambda: ((x + 1) * 2).sum()) == 2 * 4000


def test_resident_memory_rises_by_what_a_call_touches():
    rise = resident_peak(lambda: torch.ones(100_000_000).sum())
    if rise is None:
        pytest.skip("this kernel does not let a process reset its high-water mark")
    assert 3.5e8 < rise < 6e8


def test_resident_memory_is_unknown_without_proc(tmp_path):
    called = []
    assert resident_peak(lambda: called.append(1), tmp_path) is None
    assert called == [1]


def test_running_out_of_memory_is_an_error_and_not_the_end():
    with bounded_memory(), pytest.raises(RuntimeError) as caught:
        torch.empty(2**44)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_traffic_of_a_convolution_is_input_weight_and_output():
    conv = nn.Conv2d(4, 8, 3, padding=1, bias=False)
    assert traffic(conv, (2, 4, 10, 10)) == 2 * 4 * 100 + 8 * 4 * 9 + 2 * 8 * 100
    assert traffic(nn.Sequential(conv, nn.ReLU()), (2, 4, 10, 10)) == traffic(conv, (2, 4, 10, 10))


def test_traffic_is_counted_where_the_way_through_depends_on_the_data():
    class Gate(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) if x.sum() < 1 else x

    assert traffic(Gate(4, 8, 1, bias=False), (2, 4, 10, 10)) == 2 * 4 * 100 + 8 * 4 + 2 * 8 * 100


def test_limits_are_plausible():
    peaks = measure_peaks(["fp32"], CPU, seconds=0.05)
    assert peaks.keys() == {"gemm_fp32", "triad"}
    assert 1e8 < peaks["gemm_fp32"] < 1e14
    assert 1e8 < triad_bandwidth(CPU, elements=2**20, seconds=0.02) < 1e13
    assert 1e7 < (engine_peak("eager", "fp32", CPU, size=256, seconds=0.02) or 0) < 1e14
    assert engine_peak("eager", "int8", CPU) is None
    int8 = gemm_peak("int8", CPU, size=256, seconds=0.05)
    assert int8 is None or int8 > 1e7
