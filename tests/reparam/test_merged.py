"""Merged training equals training branch by branch where the part is the whole batch; and what else it must keep."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.support.blocks import norms_in, randomise
from tests.support.merged import SPEC, images, training_step, twins
from zoo.registry import create_model
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.branches import build_block
from zoo.reparam.layers import BatchNormPad2d
from zoo.reparam.merged import merge
from zoo.reparam.spec import ConvSpec
from zoo.surgery.deploy import deploy

CHANNELS = {"dense": (6, 8, 1), "grouped": (8, 8, 2), "depthwise": (6, 6, 6)}  # in, out, groups


def bordered_by_batch(norm_pad: BatchNormPad2d, x: Tensor) -> Tensor:
    """BatchNormPad2d whose border is the response under the batch's statistics, as merged training has it."""
    bn, border = norm_pad.bn, norm_pad.border
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    response = bn.bias - mean * bn.weight * torch.rsqrt(variance + bn.eps)
    inside = F.pad(torch.ones_like(x[:1, :1]), border)
    return F.pad(bn(x), border) + (1 - inside) * response[:, None, None]


def assert_same_step(branches: nn.Module, merged: nn.Module, x: Tensor, rtol: float = 1e-7) -> None:
    (y, found), (z, other) = training_step(branches, x), training_step(merged, x)
    torch.testing.assert_close(z, y, rtol=rtol, atol=rtol * y.abs().max().item())
    assert found.keys() == other.keys()
    largest = max(value.abs().max().item() for value in found.values())
    for name, value in found.items():
        # Some gradients are zero but for rounding: that of a scale in front of a BatchNorm.
        atol = rtol * max(value.abs().max().item(), 1e-6 * largest) if value.is_floating_point() else 0
        torch.testing.assert_close(other[name], value, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("block", ["repvgg", "acb", "dbb", "kxk*3+1x1+identity", "repghost"])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_from_the_whole_batch_it_equals_training_branch_by_branch(block, channels, kernel, stride, monkeypatch):
    monkeypatch.setattr(BatchNormPad2d, "forward", bordered_by_batch)
    inside, outside, groups = CHANNELS[channels]
    spec = ConvSpec(inside, outside, kernel, stride, kernel // 2, groups=groups)
    branches, merged = twins(spec, block, dtype=torch.float64)
    assert_same_step(branches, merged, images(spec))


@pytest.mark.parametrize("geometry", [{"padding": 0}, {"padding": 2, "dilation": 2}, {"padding_mode": "reflect"}])
def test_so_it_does_in_other_geometries(geometry):
    spec = ConvSpec(8, 8, 3, **{"padding": 1, **geometry})
    branches, merged = twins(spec, "kxk+1x1+asym+identity+bare_identity", dtype=torch.float64)
    assert_same_step(branches, merged, images(spec))


def test_a_part_gives_exact_means_and_variances_near_the_batchs():
    spec = ConvSpec(6, 6, 3, padding=1)
    branches, merged = twins(spec, "kxk+1x1+identity", pixels=3 * 32 * 32, dtype=torch.float64)
    x = images(spec, 24, 32) * torch.linspace(0.5, 1.5, 24, dtype=torch.float64)[:, None, None, None]
    (_, exact), (_, estimated) = training_step(branches, x), training_step(merged, x)
    for name, value in exact.items():
        exactly = name.endswith("running_mean") or name == "branches.identity.bn.running_var"
        if "running" in name:  # 0.9 of it is the same old value
            torch.testing.assert_close(estimated[name], value, rtol=1e-10 if exactly else 0.05, atol=1e-12)
    # The part's own variance would be too small by more than two: its images have half the energy of the batch's.
    alone = branches.branches["kxk"][0](x[:3]).var((0, 2, 3)) / branches.branches["kxk"][0](x).var((0, 2, 3))
    assert (alone < 0.5).all()


def test_channels_that_the_part_does_not_see_stay_finite():
    _, merged = twins(SPEC, "kxk+1x1+identity", pixels=2 * 7 * 7)
    x = images(number=8, dtype=torch.float32)
    x[:, 0] = 0.0  # dead everywhere
    x[:, 1] = 0.0
    x[-1, 1, 3, 3] = 5.0  # alive in an image outside the part
    y, found = training_step(merged, x)
    assert y.isfinite().all() and all(value.isfinite().all() for value in found.values())
    seen = torch.var(x[:, 1], correction=1).item()
    old = randomise(build_block(SPEC, "kxk+1x1+identity")).get_buffer("branches.identity.bn.running_var")[1].item()
    assert found["branches.identity.bn.running_var"][1].item() == pytest.approx(0.9 * old + 0.1 * seen, rel=1e-5)


@pytest.mark.parametrize(("number", "pixels"), [(3, 2 * 49), (8, 5 * 49)])
def test_more_than_half_of_the_batch_is_not_worth_it(number, pixels):
    branches, merged = twins(SPEC, "repvgg", pixels)
    x = images(number=number, dtype=torch.float32)
    assert torch.equal(merged(x), branches(x))


def test_frozen_norms_normalise_by_their_running_statistics():
    branches, merged = twins(SPEC, "kxk+1x1+asym+identity", dtype=torch.float64)
    for block in (branches, merged):  # all but one
        for name, norm in block.named_modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.train(name.startswith("branches.kxk"))
    assert_same_step(branches, merged, images())
    for block in (branches, merged):
        block.branches["kxk"].eval()
    torch.testing.assert_close(merged(images()), branches(images()), rtol=1e-10, atol=1e-10)


def test_cumulative_averages_and_norms_without_parameters_or_statistics_are_kept_alike():
    branches, merged = twins(SPEC, "repvgg", dtype=torch.float64)
    for block in (branches, merged):
        block.branches["kxk"].bn.momentum = None
        block.branches["1x1"].bn = nn.BatchNorm2d(8, affine=False, dtype=torch.float64)
        block.branches["identity"].bn = nn.BatchNorm2d(8, track_running_stats=False, dtype=torch.float64)
    for _ in range(3):
        assert_same_step(branches, merged, images())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mean", [0.5, 20.0])
@pytest.mark.parametrize("block", ["repvgg", "acb", "dbb", "kxk*4+1x1+identity"])
def test_autocast_is_about_as_near_to_float64_as_branch_by_branch(block, mean, dtype, monkeypatch):
    monkeypatch.setattr(BatchNormPad2d, "forward", bordered_by_batch)
    spec = ConvSpec(32, 32, 3, padding=1)
    branches, merged = twins(spec, block)
    x = (images(spec, 8, 10) - 0.7 + mean).to(dtype)
    wanted = copy.deepcopy(branches).double()(x.double())
    errors = []
    for network in (branches, merged):
        with torch.autocast("cpu", dtype):
            y, found = training_step(network, x)
        errors.append(((y - wanted).norm() / wanted.norm()).item())
    assert y.dtype == dtype and found["branches.kxk.bn.running_var"].dtype == torch.float32
    assert errors[1] < 3 * errors[0] < 0.1


def test_statistics_do_not_cancel_in_float32():
    branches, merged = twins(SPEC, "repvgg")
    x = images(number=8, dtype=torch.float32) + 300  # |mean| / std
    wanted = copy.deepcopy(branches).double()
    wanted(x.double())
    merged(x)
    for name in ("kxk", "1x1", "identity"):
        exact, found = (b.get_buffer(f"branches.{name}.bn.running_var") for b in (wanted, merged))
        torch.testing.assert_close(found.double(), exact.double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_batch_read_in_pieces_gives_what_it_gives_as_a_whole(layout, at_once, monkeypatch):
    _, merged = twins(SPEC, "dbb", 2 * 49, dtype=torch.float64)
    twin, x = copy.deepcopy(merged), images(number=8).contiguous(memory_format=layout)
    y, found = training_step(merged, x)  # 25 kB, at once
    monkeypatch.setattr("zoo.reparam.merged.CACHE", at_once * x[0].numel() * x.element_size())
    z, other = training_step(twin, x)
    torch.testing.assert_close(z, y, rtol=1e-10, atol=1e-10)
    for name, value in found.items():
        torch.testing.assert_close(other[name], value, rtol=1e-10, atol=1e-10)


def test_gradient_checkpointing_gives_the_same_gradients():
    _, merged = twins(SPEC, "dbb", 2 * 49, dtype=torch.float64)
    twin = copy.deepcopy(merged)
    x = images(number=8)
    (y, found), (z, other) = training_step(merged, x), training_step(_Checkpointed(twin), x)
    assert torch.equal(y, z)
    for name, _ in merged.named_parameters():
        torch.testing.assert_close(other[f"inside.{name}"], found[name], rtol=1e-12, atol=1e-12)


class _Checkpointed(nn.Module):
    def __init__(self, inside: nn.Module):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return checkpoint(self.inside, x, use_reentrant=False)


def test_it_compiles_to_one_graph():
    _, merged = twins(SPEC, "kxk+identity+mix1x1+avg+1x1_kxk", 2 * 49, dtype=torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(merged), backend="aot_eager", fullgraph=True)
    (y, found), (z, other) = training_step(merged, images(number=8)), training_step(compiled, images(number=8))
    torch.testing.assert_close(z, y, rtol=1e-10, atol=1e-10)
    for name, value in found.items():
        torch.testing.assert_close(other.get(name, other.get(f"_orig_mod.{name}")), value, rtol=1e-9, atol=1e-9)


def test_eval_mode_weights_and_deployed_network_are_untouched():
    network = randomise(create_model("repvgg_tiny", num_classes=10))
    assert isinstance(network, nn.Module)
    merged = copy.deepcopy(network)
    merge(merged, 256)
    assert [*merged.state_dict()] == [*network.state_dict()] and norms_in(merged) == norms_in(network)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(merged.eval()(x), network.eval()(x))
    one, other = deploy(merged), deploy(network)
    assert not any(isinstance(module, MultiBranchConv2d) for module in one.modules())
    assert torch.equal(one(x), other(x))
    merge(merged, 0)
    assert all(type(a) is type(b) for a, b in zip(merged.modules(), network.modules(), strict=True))
    assert torch.equal(merged.train()(x), network.train()(x))


@pytest.mark.parametrize("kernel", [1, 3])
def test_no_pointwise_convolution_strides_by_itself(kernel, monkeypatch):
    """It corrupts the heap in channels_last with fewer than 16 input channels (oneDNN issue 6035)."""
    strided, conv2d = [], F.conv2d

    def watch(x, weight, bias=None, stride=1, *geometry):
        strided.append(tuple(weight.shape[2:]) == (1, 1) and stride not in (1, (1, 1)))
        return conv2d(x, weight, bias, stride, *geometry)

    monkeypatch.setattr(F, "conv2d", watch)
    spec = ConvSpec(3, 8, kernel, 2, kernel // 2)
    _, merged = twins(spec, "kxk*2+1x1+1x1_kxk", pixels=32)
    merged(images(spec, 8, 16, torch.float32))
    assert strided and not any(strided)
