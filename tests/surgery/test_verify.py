"""The proofs themselves: what must not pass them."""

import math

import pytest
import torch
from torch import nn

import zoo
from tests.support.blocks import randomise
from zoo.compare import relative_error
from zoo.surgery.verify import prove_network

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_random_input_is_drawn_on_the_cpu_whatever_the_default_device():
    model = randomise(zoo.create_model("repvgg_tiny")).eval()
    with torch.device("meta"):
        report = zoo.deploy_with_report(model)[1]
    assert report.relative_error == zoo.deploy_with_report(model)[1].relative_error


def test_nan_in_any_output_is_an_error():
    ones, broken = torch.ones(2), torch.tensor([1.0, torch.nan])
    assert math.isnan(relative_error([ones, broken], [ones, ones]))
    assert math.isnan(relative_error([broken, ones], [ones, ones]))
    assert relative_error([ones, 2 * ones], [ones, ones]) == 1


def test_nan_in_a_later_output_fails_the_proof():
    class Two(nn.Module):
        def __init__(self, second):
            super().__init__()
            self.weight, self.second = nn.Parameter(torch.ones(1)), second

        def forward(self, x):
            return self.weight * x, self.second * x

    with pytest.raises(zoo.EquivalenceError, match="off by nan"):
        prove_network(Two(1.0), Two(torch.nan), IMAGES)


def test_an_output_without_tensors_is_refused():
    with pytest.raises(ValueError, match="output holds no tensors"):
        relative_error(None, None)
