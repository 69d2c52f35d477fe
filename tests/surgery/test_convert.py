"""Blocks in other people's networks: what is replaced, what is left and why, and the way back."""

import copy
from collections import OrderedDict

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from timm.utils import freeze
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import zoo
from tests.support.blocks import NormReLU, OutputToo, fill_convs, randomise
from zoo.reparam.block import MultiBranchConv2d
from zoo.surgery.convert import convert_with_report

IMAGES = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

NETWORKS = {
    "test_resnet": {},  # the stock pattern
    "test_byobnet": {},  # activations fused with BatchNorm
    "test_efficientnet": {},  # depthwise
    "test_efficientnet_ln": {},  # LayerNorm: blocks bring BatchNorms of their own
    "test_convnext": {},  # even kernels with bias, no BatchNorm; 7x7
    "resnetv2_18": {"layers": (1, 1, 1, 1), "channels": (8, 16, 32, 64), "stem_chs": 8},  # pre-activation
    "densenet121": {"block_config": (1, 1, 1, 1), "growth_rate": 8},  # concatenated outputs
    "lcnet_035": {},  # depthwise 5x5, SE
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomise(timm.create_model(name, num_classes=10, **NETWORKS[name])).double().eval()


def conv_bn(**kwargs) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, **kwargs), nn.BatchNorm2d(8), nn.ReLU())


def reasons(model: nn.Module, *args, **kwargs) -> dict[str, str]:
    """Name of each convolution that was left → why; one convertible convolution is put beside it."""
    both = nn.Sequential(OrderedDict(beside=nn.Conv2d(3, 3, 3, padding=1), it=model))
    _, report = convert_with_report(both, "acb", *args, **{"example": torch.randn(2, 3, 16, 16), **kwargs})
    assert [item.name for item in report.replaced] == ["beside"]
    return {item.name.removeprefix("it").lstrip("."): item.reason for item in report.left}


@pytest.mark.parametrize("name, block", list(zip(NETWORKS, ["acb", "dbb", "repvgg"] * 3, strict=False)))
def test_converted_networks_deploy_to_their_own_layout(name, block):
    plain = build(name)
    model = fill_convs(randomise(zoo.convert(plain, block, example=IMAGES))).eval()
    deployed = zoo.deploy(model, IMAGES, verify=False)

    torch.testing.assert_close(deployed(IMAGES), model(IMAGES), rtol=1e-9, atol=1e-9)
    own = {key: value.shape for key, value in plain.state_dict().items()}
    new = {key: value.shape for key, value in deployed.state_dict().items()}
    assert all(own.get(key) == shape for key, shape in new.items() if key in own or not key.endswith(".bias"))


@pytest.mark.parametrize(
    "name, norms, bare",
    [
        ("test_resnet", 10, 0),
        ("test_byobnet", 6, 0),
        ("test_efficientnet", 6, 0),
        ("test_efficientnet_ln", 0, 6),
        ("test_convnext", 0, 4),
        ("resnetv2_18", 4, 4),
        ("densenet121", 0, 4),
        ("lcnet_035", 14, 0),
    ],
)
def test_convolutions_and_the_norms_they_feed_are_found(name, norms, bare):
    _, report = convert_with_report(build(name), "acb", example=IMAGES)
    assert len([item for item in report.replaced if item.norm]) == norms
    assert len([item for item in report.replaced if not item.norm]) == bare


def test_the_network_itself_is_left_as_it_was():
    plain = build("test_resnet")
    before = copy.deepcopy(plain.state_dict())
    zoo.convert(plain, "dbb", example=IMAGES)
    after = plain.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_the_report_says_what_was_replaced_and_what_was_left():
    model, report = convert_with_report(build("test_resnet"), "dbb", example=IMAGES)
    first = report.replaced[0]
    assert (first.name, first.norm, first.layer) == ("conv1.0", "conv1.1", "3x3 stride=2 3→16")
    assert first.branches == ["kxk", "1x1", "avg", "1x1_kxk"]
    assert isinstance(model.get_submodule("conv1.0"), MultiBranchConv2d)
    assert {item.reason for item in report.left} == {"outside the papers' rule, 1 < K < 7"}
    assert "5 left: outside the papers' rule" in report.table()
    assert report.to_dict()["replaced"][0]["norm"] == "conv1.1"


def test_the_activation_of_a_fused_norm_stays_in_its_place():
    model = zoo.convert(build("test_byobnet"), "acb", example=IMAGES)
    assert isinstance(model.get_submodule("stem.bn"), nn.ReLU)


def test_a_pattern_narrows_the_papers_rule():
    _, report = convert_with_report(build("test_resnet"), "acb", "layer2.*", example=IMAGES)
    assert [item.name for item in report.replaced] == ["layer2.0.conv1", "layer2.0.conv2"]


def test_a_function_replaces_the_papers_rule():
    _, report = convert_with_report(
        build("test_convnext"), "repvgg", lambda name, spec: spec.kernel_size == (7, 7), example=IMAGES
    )
    assert len(report.replaced) == 9
    assert all(item.branches == ["kxk", "1x1", "identity"] for item in report.replaced)


def test_blocks_by_name_take_the_first_pattern_that_matches():
    blocks = {"layer1.*": "acb", "layer[12].*": "kxk*2+1x1"}
    _, report = convert_with_report(build("test_resnet"), blocks, example=IMAGES)
    branches = {item.name: item.branches for item in report.replaced}
    assert branches["layer1.0.conv1"] == ["kxk", "ver", "hor"]
    assert branches["layer2.0.conv1"] == ["kxk", "kxk_2", "1x1"]
    assert not [name for name in branches if name.startswith(("conv1", "layer3"))]


def test_epsilon_momentum_mode_and_gradient_flags_are_carried():
    plain = conv_bn().train()
    plain[1] = nn.BatchNorm2d(8, eps=1e-3, momentum=0.01)
    plain[0].requires_grad_(False)
    plain[1].eval()
    block = zoo.convert(plain, "dbb", example=IMAGES.float()).get_submodule("0")
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 6 and {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    assert not block.training and not any(p.requires_grad for p in block.parameters())


@pytest.mark.parametrize("device, dtype", [("cpu", torch.bfloat16), ("meta", torch.float32)])
def test_device_and_dtype_are_kept(device, dtype):
    plain = conv_bn().to(device, dtype)
    model = zoo.convert(plain, "dbb", example=torch.randn(2, 3, 8, 8, dtype=dtype, device=device))
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {(device, dtype)}


def test_synchronised_and_frozen_norms_make_such_branches():
    images = IMAGES.float()
    synchronised = zoo.convert(convert_sync_batchnorm(conv_bn()), "dbb", example=images).get_submodule("0")
    assert [type(m) for m in synchronised.modules() if "BatchNorm" in type(m).__name__].count(nn.SyncBatchNorm) == 6
    frozen = conv_bn()
    freeze(frozen)
    block = zoo.convert(frozen, "acb", example=images).get_submodule("0")
    assert sum(isinstance(module, FrozenBatchNorm2d) for module in block.modules()) == 3


def test_a_synchronised_norm_keeps_its_activation():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4, act_layer=nn.SiLU))
    model = zoo.convert(convert_sync_batchnorm(plain), "acb", example=IMAGES.float())
    assert isinstance(model.get_submodule("1"), nn.SiLU)


@pytest.mark.parametrize(
    "model, reason",
    [
        (timm.layers.Conv2dSame(3, 4, 3, stride=2), "pads by the size of its input"),
        (timm.layers.StdConv2d(3, 4, 3), "StdConv2d computes its convolution in a way of its own"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), "parametrized"),
        (nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), "parametrized"),
        (nn.ConvTranspose2d(3, 4, 3), "ConvTranspose2d is not a two-dimensional convolution"),
        (nn.Conv2d(3, 4, (1, 3)), "block 'acb' adds no branch to such a convolution"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), "no running statistics"),
    ],
)
def test_what_cannot_be_converted_is_left_and_said_why(model, reason):
    assert reason in " ".join(reasons(model).values())


def test_a_convolution_used_twice_is_left():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    assert reasons(nn.Sequential(conv, nn.ReLU(), conv)) == {"0": "is one module under several names (it.0, it.2)"}

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return self.conv(self.conv(x))

    assert "called 2 times" in reasons(Twice())["conv"]


def test_a_convolution_with_hooks_is_left():
    conv = nn.Conv2d(3, 3, 3)
    conv.register_forward_hook(lambda *args: None)
    assert "has forward hooks" in reasons(conv)[""]


def test_a_convolution_that_only_training_runs_is_left():
    class Aux(nn.Module):
        def __init__(self):
            super().__init__()
            self.aux = nn.Conv2d(3, 3, 3)

        def forward(self, x):
            return self.aux(x) if self.training else x

    assert reasons(Aux()) == {"aux": "does not run in a forward pass in eval mode"}


def test_a_network_that_reads_its_weights_itself_is_refused():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, x):
            return self.conv(x.to(self.conv.weight.dtype))

    with pytest.raises(ValueError, match=r"Reads reads from a convolution.*leave that convolution out"):
        zoo.convert(Reads(), "acb", example=IMAGES.float())


def test_impossible_requests_are_refused():
    model, images = conv_bn(), IMAGES.float()
    with pytest.raises(ValueError, match="unknown block 'ddb': did you mean dbb"):
        zoo.convert(model, "ddb", example=images)
    with pytest.raises(ValueError, match=r"nothing to convert in Sequential: 1 left: outside the papers' rule"):
        zoo.convert(nn.Sequential(nn.Conv2d(3, 4, 7)), "dbb", example=images)
    with pytest.raises(ValueError, match=r"0\.weight has no shape yet"):
        zoo.convert(nn.Sequential(nn.LazyConv2d(4, 3)), "dbb", example=images)
    with pytest.raises(ValueError, match=r"does not run on an input of \(2, 3, 32, 32\)"):
        zoo.convert(nn.Sequential(nn.Conv2d(1, 4, 3)), "dbb", example=images)
    with pytest.raises(ValueError, match="'paper' starts branches afresh"):
        zoo.convert(model, "dbb", example=images, init="origin")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="of init='paper'"):
        zoo.convert(model, "dbb", example=images, init="preserve", single_init=True)


def test_an_activation_in_a_norm_of_the_users_own_is_kept():
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), NormReLU(8))
    model, report = convert_with_report(plain, "acb", example=IMAGES.float())
    assert report.replaced[0].norm is None and isinstance(model.get_submodule("1"), NormReLU)
    assert model.eval()(IMAGES.float()).min() >= 0


def test_a_norm_beside_which_the_convolutions_output_is_answered_stays():
    model, report = convert_with_report(OutputToo(), "acb", example=IMAGES.float())
    assert report.replaced[0].norm is None and isinstance(model.get_submodule("bn"), nn.BatchNorm2d)


def test_recurrent_and_one_dimensional_layers_are_untouched():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.line, self.gru = nn.Conv2d(3, 4, 3), nn.Conv1d(4, 4, 3), nn.GRU(4, 4, batch_first=True)

        def forward(self, x):
            return self.gru(self.line(self.conv(x).flatten(2)).mT)[0]

    plain = Mixed()
    model, report = convert_with_report(plain, "acb", example=torch.randn(2, 3, 6, 6))
    assert [item.name for item in report.replaced] == ["conv"]
    assert report.left[0].reason == "Conv1d is not a two-dimensional convolution"
    assert model.get_submodule("gru").state_dict().keys() == plain.gru.state_dict().keys()
