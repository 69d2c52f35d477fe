"""Merged training equals training branch by branch where the part is the whole batch; and what else it must keep."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from tests.support.blocks import fill_convs, norms_in, randomise
from tests.support.processes import fresh_process
from zoo.engine.distributed import sum_over_processes
from zoo.registry import create_model
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.branches import build_block
from zoo.reparam.layers import BatchNormPad2d
from zoo.reparam.merged import MergedConv2d, merge
from zoo.reparam.spec import ConvSpec
from zoo.surgery.deploy import deploy

SPEC = ConvSpec(8, 8, 3, padding=1)
CHANNELS = {"dense": (6, 8, 1), "grouped": (8, 8, 2), "depthwise": (6, 6, 6)}  # in, out, groups


def bordered_by_batch(norm_pad: BatchNormPad2d, x: Tensor) -> Tensor:
    """BatchNormPad2d whose border is the response under the batch's statistics, as merged training has it."""
    bn, border = norm_pad.bn, norm_pad.border
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    response = bn.bias - mean * bn.weight * torch.rsqrt(variance + bn.eps)
    inside = F.pad(torch.ones_like(x[:1, :1]), border)
    return F.pad(bn(x), border) + (1 - inside) * response[:, None, None]


def twins(spec: ConvSpec, block: str, pixels: int = 0, **factory) -> tuple[MultiBranchConv2d, MergedConv2d]:
    """A random block and its copy that trains merged, with statistics from so many pixels, or from the whole batch."""
    torch.manual_seed(0)
    branches = build_block(spec, block, **factory)
    fill_convs(randomise(branches))
    merged = copy.deepcopy(branches)
    merge(merged, pixels or 1)
    assert isinstance(merged, MergedConv2d)
    if not pixels:
        vars(merged)["_part"] = len
    return branches, merged


def images(spec: ConvSpec = SPEC, number: int = 4, size: int = 7, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(number, spec.in_channels, size, size, generator=generator, dtype=torch.float64).add(0.7).to(dtype)
    )


def training_step(block: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The block's output; the input's gradient, every parameter's, and the running statistics after it."""
    x = x.clone().requires_grad_()
    y = block(x)
    (y.double() * torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view_as(y)).sum().backward()
    assert x.grad is not None
    gradients = {name: p.grad for name, p in block.named_parameters() if p.grad is not None}
    return y.detach(), {"x": x.grad, **gradients, **dict(block.named_buffers())}


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


def test_distributed_training_gets_every_gradient(tmp_path):
    _, merged = twins(SPEC, "dbb", 2 * 49, dtype=torch.float64)
    alone = copy.deepcopy(merged)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(merged)
        for _ in range(2):  # the second step raises if a gradient of the first was not seen
            (y, found), (z, other) = training_step(alone, images(number=8)), training_step(wrapped, images(number=8))
            torch.testing.assert_close(z, y, rtol=0, atol=0)
            assert {name.removeprefix("module.") for name in other} == found.keys()
            for name, value in other.items():
                torch.testing.assert_close(value, found[name.removeprefix("module.")], rtol=1e-12, atol=1e-12)
    finally:
        dist.destroy_process_group()


class _Checkpointed(nn.Module):
    def __init__(self, inside: nn.Module):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return checkpoint(self.inside, x, use_reentrant=False)


@pytest.mark.parametrize("block", ["repvgg", "dbb"])
def test_it_compiles_to_one_graph(block):
    _, merged = twins(SPEC, block, 2 * 49, dtype=torch.float64)
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


def step_of_one_of_two(rank: int, block: str, folder: str) -> None:
    """One of two processes, each with half of the batch: what its merged training step gives."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    _, merged = twins(SPEC, block, dtype=torch.float64)
    vars(merged)["total"] = sum_over_processes
    x = images(number=8).chunk(2)[rank].clone().requires_grad_()
    y = merged(x)
    weights = torch.linspace(-1, 2, 2 * y.numel(), dtype=torch.float64).chunk(2)[rank]
    (y * weights.view_as(y)).sum().backward()
    gradients = {name: p.grad for name, p in merged.named_parameters()}
    torch.save((y.detach(), x.grad, gradients, dict(merged.named_buffers())), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("block", ["repvgg", "dbb"])
def test_statistics_over_two_processes_are_those_of_the_whole_batch(block, tmp_path):
    arguments = [(rank, block, str(tmp_path)) for rank in range(2)]
    processes = [fresh_process().Process(target=step_of_one_of_two, args=a) for a in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    y, found = training_step(twins(SPEC, block, dtype=torch.float64)[1], images(number=8))
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(torch.cat([half[0] for half in halves]), y, **close)
    torch.testing.assert_close(torch.cat([half[1] for half in halves]), found["x"], **close)
    for name in halves[0][2]:
        torch.testing.assert_close(sum(half[2][name] for half in halves), found[name], **close)
    for name, buffer in halves[0][3].items():
        torch.testing.assert_close(buffer, halves[1][3][name], rtol=0, atol=0)
        torch.testing.assert_close(buffer, found[name], **close)


def test_a_synchronised_norm_wants_the_sum_over_processes():
    block = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(build_block(SPEC, "repvgg")))
    with pytest.raises(ValueError, match="0 has a SyncBatchNorm, whose statistics are of all processes: give `total`"):
        merge(block, 1024)
    merge(block, 1024, sum_over_processes)
    assert isinstance(block[0], MergedConv2d)
