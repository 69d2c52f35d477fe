"""What a network says of itself, and the inputs that follow from it."""

import timm
import torch
from torch import nn

import zoo
from zoo.export import compile_for
from zoo.network import class_names, declare, example_input, input_size, preprocessing, proof_input, runs_on


class Strict(nn.Module):
    """A network that, like HRNet and DLA, only runs on sides that halve five times."""

    pretrained_cfg = {"input_size": (3, 224, 224), "crop_pct": 0.95, "test_input_size": (3, 288, 288)}

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] % 32:
            raise ValueError("sides must halve five times")
        return self.norm(self.conv(x)).mean((2, 3))


def test_an_example_has_the_size_that_the_network_declares():
    assert example_input(Strict()).shape == (1, 3, 224, 224)
    assert example_input(Strict(), 2, img_size=64).shape == (2, 3, 64, 64)
    assert example_input(nn.Conv2d(3, 4, 3).double()).dtype == torch.float64


def test_only_a_proof_takes_half_the_size_and_only_where_the_network_runs_on_it():
    assert proof_input(zoo.create_model("repvgg_a0", device="meta")).shape == (2, 3, 224, 224)  # costs nothing there
    assert proof_input(zoo.create_model("repvgg_a0")).shape == (2, 3, 112, 112)
    assert not runs_on(Strict(), torch.zeros(1, 3, 112, 112))
    assert proof_input(Strict()).shape == (2, 3, 224, 224)


def test_networks_that_do_not_run_at_half_their_size_are_converted_and_deployed():
    model = timm.create_model("dla46_c").eval()
    converted = zoo.convert(model, "acb", where="level2.tree1.*")
    assert zoo.is_deployed(zoo.deploy(converted.eval()))


def test_a_norm_is_as_large_as_the_map_it_is_given():
    assert not runs_on(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(5)), torch.zeros(1, 3, 8, 8))
    assert runs_on(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), torch.zeros(1, 3, 8, 8))


def test_an_engine_takes_images_of_the_networks_own_size_by_default():
    assert compile_for(Strict().eval(), "eager").input_size == (3, 224, 224)


def test_preprocessing_is_resolved_as_timm_does():
    assert preprocessing(Strict())["crop_pct"] == 0.95 and preprocessing(Strict())["interpolation"] == "bilinear"
    assert preprocessing(Strict(), test=True)["input_size"] == (3, 288, 288)
    assert input_size(nn.Conv2d(3, 4, 3)) == (3, 224, 224)
    grey = timm.create_model("resnet18", in_chans=1)
    assert input_size(grey)[0] == 1 and preprocessing(grey)["interpolation"] == "bicubic"


def test_classes_are_named_in_words():
    network = zoo.create_model("repvgg_tiny", num_classes=1000)
    assert class_names(network)[967] == "espresso" and len(class_names(network)) == 1000
    declare(network, class_names=("n07920052", "n04399382", "n99999999"))  # folders of ImageNet
    assert class_names(network) == ["espresso", "teddy, teddy bear", "n99999999"]
    declare(network, class_names=("ant", "n07920052"))
    assert class_names(network) == ["ant", "n07920052"]
    assert class_names(zoo.create_model("repvgg_tiny", num_classes=7)) == []
