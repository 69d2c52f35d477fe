"""Parameters, MACs and Winograd multiplications: by hand on layers, against others on networks."""

from pathlib import Path

import pytest
import timm
import torch
import yaml
from timm.utils import reparameterize_model
from torch import nn

import zoo
from zoo.cost import Cost, count

COUNTS = yaml.safe_load((Path(__file__).parents[1] / "support" / "paper_counts.yaml").read_text())

IN_TIMM = {
    "repvgg_a0": "repvgg_a0",
    "repvgg_b1g4": "repvgg_b1g4",
    "repvgg_d2se": "repvgg_d2se",
    "mobileone_s0": "mobileone_s0",
    "repghostnet_1.0x": "repghostnet_100",
}


@pytest.mark.parametrize(
    "conv, macs, winograd",
    [
        (nn.Conv2d(8, 16, 3, padding=1), 9 * 8 * 16 * 100, 4 * 8 * 16 * 100),
        (nn.Conv2d(8, 16, 3, padding=1, groups=4), 9 * 2 * 16 * 100, 4 * 2 * 16 * 100),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), 9 * 8 * 100, 4 * 8 * 100),
        (nn.Conv2d(8, 16, 3), 9 * 8 * 16 * 64, 4 * 8 * 16 * 64),
        (nn.Conv2d(8, 16, 3, stride=2, padding=1), 9 * 8 * 16 * 25, 9 * 8 * 16 * 25),
        (nn.Conv2d(8, 16, 3, dilation=2, padding=2), 9 * 8 * 16 * 100, 9 * 8 * 16 * 100),
        (nn.Conv2d(8, 16, 1), 8 * 16 * 100, 8 * 16 * 100),
        (nn.Conv2d(8, 16, 5, padding=2), 25 * 8 * 16 * 100, 25 * 8 * 16 * 100),
        (nn.Conv2d(8, 16, (1, 3), padding=(0, 1)), 3 * 8 * 16 * 100, 3 * 8 * 16 * 100),
        (nn.ConvTranspose2d(8, 16, 3, padding=1), 9 * 8 * 16 * 100, 9 * 8 * 16 * 100),
    ],
)
def test_one_convolution_by_hand(conv: nn.Module, macs: int, winograd: int):
    assert count(conv, (8, 10, 10)) == Cost(sum(p.numel() for p in conv.parameters()), macs, winograd)


@pytest.mark.parametrize("bias", [True, False])
def test_one_fully_connected_layer_by_hand(bias: bool):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 10, bias=bias))
    assert count(model, (3, 4, 4)) == Cost(480 + 10 * bias, 480, 480)


def test_only_convolutions_and_matrix_products_cost():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.MaxPool2d(2))
    assert count(model, (3, 8, 8)) == Cost(12 + 4 + 8, 12 * 64, 12 * 64)


def test_a_layer_used_twice_costs_twice_and_is_stored_once():
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    assert count(nn.Sequential(conv, conv), (4, 6, 6)) == Cost(144, 2 * 144 * 36, 2 * 64 * 36)


def test_counting_leaves_the_model_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, dtype=torch.float64), nn.BatchNorm2d(4, dtype=torch.float64)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert count(model, (3, 5, 5)).macs == 27 * 4 * 9
    assert model.training and all(module.training for module in model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model[0].weight.device.type == "cpu" and model[0].weight.requires_grad


@pytest.mark.parametrize("size", [(3, 224), (3, 0, 224), (3, -1, 4), ()])
def test_a_bad_input_size_is_refused(size: tuple[int, ...]):
    with pytest.raises(ValueError, match="input_size must be positive"):
        count(nn.Conv2d(3, 4, 1), size)


@pytest.mark.parametrize("name", IN_TIMM)
def test_counts_of_timms_networks_agree_with_the_published_ones(name: str):
    with torch.device("meta"):
        train = timm.create_model(IN_TIMM[name]).eval()
        deployed = reparameterize_model(train)
    check(COUNTS[name], train, deployed)


@pytest.mark.parametrize("name", [*IN_TIMM, "repvgg_b2g2", "repvgg_b3g2"])  # others: test_paper_reproduce.py
def test_counts_of_our_networks_agree_with_the_published_ones(name: str):
    train = zoo.create_model(name, device="meta").eval()
    check(COUNTS[name], train, zoo.deploy(train, fold_regions=False, verify=False))


def check(expected: dict[str, float], train: nn.Module, deployed: nn.Module) -> None:
    """Every count that somebody published of this network."""
    cost = count(deployed)
    assert cost.params == expected["deployed_params"]
    if "train_params" in expected:
        assert count(train).params == expected["train_params"]
    if "gmacs" in expected:
        assert round(cost.macs / 1e9, 4) == expected["gmacs"]
        assert round(cost.winograd_muls / 1e9, 4) == expected["gmuls"]
    if "mmacs" in expected:
        assert round(cost.macs / 1e6, 2) == expected["mmacs"]
    if "backbone_macs" in expected:
        channels = next(m.in_features for m in deployed.modules() if isinstance(m, nn.Linear))
        assert cost.macs == expected["backbone_macs"] - 49 * channels + 1000 * channels
