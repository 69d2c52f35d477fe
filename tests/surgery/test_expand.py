"""Expanding: the function is kept exactly, the first training step starts from it, and every branch learns."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from tests.support.blocks import randomise
from zoo.compare import relative_error
from zoo.reparam.block import MultiBranchConv2d
from zoo.surgery.preserve import SHARE
from zoo.surgery.refit_norms import refit_norms
from zoo.surgery.verify import EquivalenceError

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(64, 3, 32, 32, dtype=torch.float64, generator=GENERATOR)
FEW = IMAGES[:2]


def network(name: str, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return randomise(timm.create_model(name, num_classes=10, **kwargs)).double().eval()


def as_trained(name: str) -> nn.Module:
    """Running statistics that belong to IMAGES, scales and shifts of their own: what a pretrained network has."""
    model = network(name).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        model(IMAGES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return model.eval()


def first_step_loss(model: nn.Module, images: Tensor) -> float:
    labels = torch.arange(len(images)) % 10
    with torch.no_grad():
        return F.cross_entropy(copy.deepcopy(model).train()(images), labels).item()


@pytest.mark.parametrize(
    "name, block",
    [
        ("test_resnet", "dbb"),
        ("test_byobnet", "acb"),
        ("test_efficientnet", "kxk+1x1+asym+avg+identity"),
        ("test_efficientnet_ln", "repvgg"),
        ("test_convnext", "dbb"),
        ("lcnet_035", "dbb"),
    ],
)
def test_the_expanded_network_computes_the_same(name, block):
    plain = network(name)
    model = zoo.expand(plain, block, example=FEW, calibration=IMAGES[:4])
    assert not zoo.is_deployed(model)
    assert relative_error(model(FEW), plain(FEW)) < 1e-9
    assert relative_error(zoo.deploy(model, FEW)(FEW), plain(FEW)) < 1e-9


def test_a_deployed_network_can_be_expanded():
    deployed = zoo.deploy(network("test_resnet"), FEW)
    model = zoo.expand(deployed, "dbb", example=FEW, calibration=IMAGES[:4])
    assert relative_error(model(FEW), deployed(FEW)) < 1e-9
    again = zoo.deploy(model, FEW)
    assert again.state_dict().keys() == deployed.state_dict().keys()
    assert max(relative_error(a, b) for a, b in zip(again.parameters(), deployed.parameters(), strict=True)) < 1e-9


def test_in_single_precision_it_is_the_same_to_rounding():
    plain = network("test_resnet").float()
    model = zoo.expand(plain, "dbb", example=FEW.float())  # proves it
    assert relative_error(model(FEW.float()), plain(FEW.float())) < 1e-5


@pytest.mark.parametrize("block", ["acb", "dbb", "repvgg"])
def test_the_first_training_step_starts_from_the_plain_loss(block):
    plain = as_trained("test_resnet")
    model = zoo.expand(plain, block, example=FEW, calibration=IMAGES[:32])
    # On the calibration batch itself training mode agrees, but for DBB's border (from running statistics).
    assert first_step_loss(model, IMAGES[:32]) == pytest.approx(first_step_loss(plain, IMAGES[:32]), rel=1e-3)
    # On unseen batches it differs by less than batches differ among themselves.
    losses = [first_step_loss(plain, batch) for batch in IMAGES.split(8)]
    noise = torch.tensor(losses).std().item()
    unseen = IMAGES[32:]
    assert abs(first_step_loss(model, unseen) - first_step_loss(plain, unseen)) < noise


def test_the_first_training_step_of_a_deployed_network_starts_from_its_loss():
    deployed = zoo.deploy(as_trained("test_resnet"), FEW)
    model = zoo.expand(deployed, "dbb", example=FEW, calibration=IMAGES[:32])
    assert first_step_loss(model, IMAGES[:32]) == pytest.approx(first_step_loss(deployed, IMAGES[:32]), rel=1e-3)
    unseen = IMAGES[32:]
    assert first_step_loss(model, unseen) == pytest.approx(first_step_loss(deployed, unseen), rel=0.05)


@pytest.mark.parametrize("deployed", [False, True])
def test_every_parameter_of_every_branch_gets_a_gradient(deployed):
    plain = network("test_resnet")
    plain = zoo.deploy(plain, FEW) if deployed else plain
    model = zoo.expand(plain, "dbb", example=FEW, calibration=IMAGES[:8]).train()
    F.cross_entropy(model(IMAGES[8:16]), torch.arange(8)).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_training_moves_every_branch():
    model = zoo.expand(network("test_resnet"), "acb", example=FEW, calibration=IMAGES[:8]).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(IMAGES[8:16]), torch.arange(8)).backward()
    optimizer.step()
    kernels = [name for name in before if name.endswith("conv.weight")]
    assert len(kernels) == 30
    assert all((model.state_dict()[name] - before[name]).abs().max() > 0 for name in kernels)


def test_an_extra_branch_starts_with_a_share_of_the_kernel():
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)).double()
    block = zoo.expand(randomise(plain), "acb", example=FEW, calibration=IMAGES).get_submodule("0")
    assert isinstance(block, MultiBranchConv2d)
    kernels = block.branch_kernels()
    whole = block.equivalent_kernel().weight.flatten(1).norm(dim=1)
    for name in ("ver", "hor"):
        # White images: weight norm and output deviation say the same, up to chance and what the border cuts off.
        torch.testing.assert_close(kernels[name].weight.flatten(1).norm(dim=1), SHARE * whole, rtol=0.1, atol=0)


def test_channels_that_never_vary_and_scales_of_zero_are_kept():
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)).double()
    randomise(plain)
    with torch.no_grad():
        plain.get_parameter("0.weight")[0] = 0  # a dead filter
        plain.get_parameter("1.weight")[1] = 0  # a silenced one
    images = IMAGES.clone()
    images[:, 2] = 0.5  # a constant channel
    model = zoo.expand(plain, "dbb", example=FEW, calibration=images).eval()
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert relative_error(model(FEW), plain.eval()(FEW)) < 1e-9


def test_other_padding_and_a_bias_before_the_norm_are_kept():
    plain = nn.Sequential(nn.Conv2d(3, 6, 5, 2, padding=2, groups=3, padding_mode="reflect"), nn.BatchNorm2d(6))
    plain = randomise(plain).double().eval()
    model = zoo.expand(plain, "dbb", example=FEW, calibration=IMAGES[:4])
    assert relative_error(model(FEW), plain(FEW)) < 1e-9


def test_calibration_images_change_no_output_in_eval_mode():
    plain = network("test_resnet")
    batches = [100 * IMAGES[:8] + 7, IMAGES[8:16]]
    model = zoo.expand(plain, "acb", example=FEW, calibration=iter(batches))
    assert relative_error(model(FEW), plain(FEW)) < 1e-9


def test_recalibrating_changes_nothing_in_eval_mode_and_makes_training_alike():
    model = network("test_resnet")
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    before = model(FEW)
    away = relative_error(copy.deepcopy(model).train()(IMAGES[32:]), model(IMAGES[32:]))
    refit_norms(model, IMAGES[:32].split(16), norms)
    assert relative_error(model(FEW), before) < 1e-9
    near = relative_error(copy.deepcopy(model).train()(IMAGES[32:]), model(IMAGES[32:]))
    assert near < 0.3 < 0.5 < away


@pytest.mark.parametrize(
    "block, message", [("1x1+asym", "has no 'kxk' branch"), ("kxk+bare_identity", "does not end in a BatchNorm")]
)
def test_blocks_that_cannot_hold_the_rest_are_refused(block, message):
    plain = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)).double()
    with pytest.raises(ValueError, match=message):
        zoo.expand(plain, block, example=FEW)


def test_without_calibration_images_like_the_example_are_drawn():
    plain = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)).double()
    images = torch.randn(2, 1, 12, 12, dtype=torch.float64, generator=GENERATOR)
    model = zoo.expand(randomise(plain).eval(), "acb", example=images)
    assert relative_error(model(images), plain(images)) < 1e-9


@pytest.mark.parametrize(
    "calibration, message",
    [
        ([(IMAGES[:4], torch.zeros(4))], "got a tuple: leave labels out"),
        (iter(()), "calibration holds no images"),
    ],
)
def test_calibration_that_is_no_images_is_refused(calibration, message):
    plain = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)).double()
    with pytest.raises(ValueError, match=message):
        zoo.expand(plain, "acb", example=FEW, calibration=calibration)


def test_a_network_without_weights_is_refused():
    plain = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)).to("meta")
    with pytest.raises(ValueError, match="on the meta device, without weights"):
        zoo.expand(plain, "acb", example=FEW.to("meta"))


def test_a_wrong_expansion_is_caught(monkeypatch):
    monkeypatch.setattr("zoo.surgery.preserve._channel_norm", lambda weight: weight.flatten(1).norm(dim=1) + torch.nan)
    plain = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)).double()
    with pytest.raises(EquivalenceError, match="block '0': expanded, it differs by nan from its convolution"):
        zoo.expand(plain, "acb", example=FEW)
