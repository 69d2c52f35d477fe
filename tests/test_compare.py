"""The figures by which an engine is judged."""

import math

import pytest
import torch
from torch import nn

from tests.support.export_networks import images, small_network
from zoo.compare import ParityError, compare, decibels
from zoo.export.parity import tolerance


def test_equal_answers_have_no_error_and_infinite_sqnr() -> None:
    y = torch.tensor([[1.0, 2.0], [4.0, -3.0]])
    parity = compare([y], [y])
    assert (parity.max_relative_error, parity.sqnr_db, parity.same_top1, parity.num_images) == (0, math.inf, 2, 2)
    assert parity.identical_top1 and parity.to_dict()["sqnr_db"] is None


def test_the_figures_of_a_known_error() -> None:
    reference = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    answer = torch.tensor([[3.0, 4.0], [5.5, 5.0]])  # one of four values off by 5.5; one of two argmaxes flips
    parity = compare([answer], [reference])
    assert parity.max_relative_error == pytest.approx(5.5 / 5)
    assert parity.sqnr_db == pytest.approx(10 * math.log10(50 / 30.25))
    assert parity.same_top1 == 1 and not parity.identical_top1


def test_the_largest_error_is_that_of_the_worst_batch() -> None:
    one = torch.ones(1, 4)
    parity = compare([1.01 * one, 101 * one], [one, 100 * one])
    assert parity.max_relative_error == pytest.approx(0.01, rel=1e-4) and parity.num_images == 2
    assert math.isnan(compare([one, one * math.nan], [one, one]).max_relative_error)


def test_answers_of_another_shape_are_an_error() -> None:
    with pytest.raises(ParityError, match=r"answers \(2, 3\), the other \(2, 4\)"):
        compare([torch.ones(2, 3)], [torch.ones(2, 4)])


def test_decibels() -> None:
    assert decibels(1000.0, 1.0) == pytest.approx(30)
    assert decibels(1.0, 0.0) == math.inf and decibels(0.0, 1.0) == -math.inf


def test_the_tolerance_follows_the_networks_own_rounding_noise() -> None:
    class Cancelling(nn.Module):
        """(x + 1e6) - 1e6: loses what float32 has no digits for."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ((x + 1e6) - 1e6).flatten(1)

    x = images(1)
    noise = ((x + 1e6) - 1e6 - x).abs().max() / x.abs().max()
    assert noise > 1e-3
    assert tolerance(Cancelling(), x, Cancelling()(x)) == pytest.approx(10 * float(noise), rel=1e-3)
    network = small_network()
    assert tolerance(network, x, network(x)) == 1e-4
