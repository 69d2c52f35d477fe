"""What the int8 report says, against values worked out by hand."""

import math

import pytest
import torch
from torch import nn

import zoo
from tests.support.export_networks import images, small_network
from zoo.export import quantization_report
from zoo.export.quantization import round_input, round_weight
from zoo.reparam.block import MultiBranchConv2d


def test_rounded_weights_lie_on_127_levels_and_half_a_step_away_at_most() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 10, 0.1, 3]).view(
        4, 1, 1, 1
    )
    for per_channel in (True, False):
        largest = weight.flatten(1).abs().amax(1) if per_channel else weight.abs().max().expand(4)
        step = (largest / 127).view(4, 1, 1, 1)
        rounded = round_weight(weight, per_channel=per_channel)
        assert ((rounded - weight).abs() <= step / 2 * (1 + 1e-5)).all()
        levels = rounded / step
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
        assert levels.abs().max() <= 127 + 1e-3


def test_a_rounded_input_keeps_zero_and_its_ends() -> None:
    x = torch.tensor([-1.0, -0.3, 0.0, 0.1, 2.0])
    y = round_input(x, -1.0, 2.0)
    step = 3 / 255
    assert y[2] == 0 and ((y - x).abs() <= step / 2 + 1e-6).all()
    assert round_input(torch.tensor([5.0]), -1.0, 2.0) == pytest.approx(2.0, abs=step)


def test_a_layer_already_on_the_grid_loses_nothing_and_a_narrow_channel_loses_per_tensor() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False)).eval()
    with torch.no_grad():
        network.get_parameter("0.weight").copy_(torch.tensor([127.0, 0.4]).view(2, 1, 1, 1))
    x = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    (layer,) = quantization_report(network, [x]).layers
    assert layer.max_weight == 127 and layer.growth == 1
    assert layer.spread == pytest.approx(127 / 0.4)  # the lower median
    assert layer.per_channel_db > 120
    # One scale for all: 0.4 rounds to 0, and the whole second channel is noise.
    assert layer.per_tensor_db == pytest.approx(10 * math.log10((127**2 + 0.4**2) / 0.4**2), abs=1e-3)


def test_the_noise_of_a_quantised_input_is_that_of_uniform_rounding() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)).eval()
    nn.init.ones_(network.get_parameter("0.weight"))
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    (layer,) = quantization_report(network, [x]).layers
    step = 2 / 255
    assert layer.activation_db == pytest.approx(10 * math.log10((1 / 3) / (step**2 / 12)), abs=0.2)  # 48.1 dB


def test_folding_an_identity_branch_grows_the_weights_and_costs_decibels() -> None:
    network = small_network()
    block = network.get_submodule("conv")
    assert isinstance(block, MultiBranchConv2d)
    for name, value in (("kxk", 0.05), ("1x1", 0.05), ("identity", 3.0)):
        nn.init.constant_(block.get_parameter(f"branches.{name}.bn.weight"), value)
    report = quantization_report(network, [images(8)])
    layers = {layer.name: layer for layer in report.layers}
    assert list(layers) == ["stem.0", "conv", "depthwise.0", "gate.1", "head"]
    fused = zoo.deploy(network).get_parameter("conv.weight").detach()  # the residual around the block is in it too
    branches = [block.get_parameter(f"branches.{name}.conv.weight").detach() for name in ("kxk", "1x1")]
    growth = float(fused.abs().max()) / max(float(weight.abs().max()) for weight in branches)
    assert growth > 2
    assert layers["conv"].growth == pytest.approx(growth) and layers["head"].growth == 1
    assert layers["conv"].per_channel_db < layers["head"].per_channel_db
    assert all(20 < layer.activation_db < 60 for layer in report.layers)
    assert 15 < report.output_db < min(layer.activation_db for layer in report.layers) + 10
    assert report.table().splitlines()[-1] == f"output, all layers in int8: SQNR {report.output_db:.1f} dB"


def test_the_report_needs_images() -> None:
    with pytest.raises(ValueError, match="no images"):
        quantization_report(small_network(), [])
