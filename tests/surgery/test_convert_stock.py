"""Deployed networks written back in the layout of the stock network."""

import pytest
import timm
import torch
import torchvision
from torch import nn

import zoo
from tests.support.blocks import randomise
from zoo.checkpoints.stock import stock_state_dict

IMAGES = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def assert_same_function(got: nn.Module, wanted: nn.Module) -> None:
    torch.testing.assert_close(got.eval()(IMAGES), wanted(IMAGES), rtol=1e-9, atol=1e-9)


def test_a_deployed_network_loads_into_stock_torchvision():
    plain = torchvision.models.resnet18(num_classes=10).double()
    model = randomise(zoo.convert(plain, "dbb", example=IMAGES)).eval()
    deployed = zoo.deploy(model, IMAGES, verify=False)

    plain.load_state_dict(stock_state_dict(deployed, plain, IMAGES))

    assert_same_function(plain, model)


def test_a_norm_that_has_not_been_folded_is_copied():
    plain = timm.create_model("test_resnet", num_classes=10).double()
    model = randomise(zoo.convert(plain, "acb", example=IMAGES)).eval()
    deployed = zoo.deploy(model, IMAGES, fold_regions=False, verify=False)

    plain.load_state_dict(stock_state_dict(deployed.state_dict(), plain, IMAGES))

    assert_same_function(plain, model)


def test_norms_without_affine_parameters_take_the_bias_as_mean():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False), nn.ReLU()).double()
    model = randomise(zoo.convert(plain, "acb", example=IMAGES)).eval()

    plain.load_state_dict(stock_state_dict(zoo.deploy(model, IMAGES), plain, IMAGES))

    assert_same_function(plain, model)


def test_a_convolution_with_a_bias_of_its_own_gets_it_through_the_norm():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    model = randomise(zoo.convert(plain, "acb", example=IMAGES)).eval()

    plain.load_state_dict(stock_state_dict(zoo.deploy(model, IMAGES), plain, IMAGES))

    assert not plain.get_parameter("0.bias").any()
    assert_same_function(plain, model)


def test_a_layout_without_place_for_a_bias_is_refused_by_key():
    plain = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3, bias=False)).double()
    model = zoo.convert(plain, "acb", example=IMAGES).eval()

    with pytest.raises(ValueError, match=r"the stock layout has no place for 1\.bias"):
        stock_state_dict(zoo.deploy(model, IMAGES), plain, IMAGES)


def test_a_layout_of_another_network_is_refused_by_key():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))

    with pytest.raises(ValueError, match=r"the deployed network lacks 2\.weight, 2\.bias"):
        stock_state_dict(plain, other, IMAGES.float())
