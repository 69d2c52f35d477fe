"""What a user gets from equivalent kernels: shares of branches, and penalties."""

from collections import OrderedDict

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard.writer import SummaryWriter

import zoo
from tests.support.blocks import fill_convs, randomise
from zoo.engine.log import log_shares
from zoo.engine.state import Progress
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.branches import build_block
from zoo.reparam.regularisers import channel_lasso, equivalent_l2
from zoo.reparam.shares import branch_shares
from zoo.reparam.spec import ConvSpec

SPEC = ConvSpec(in_channels=4, out_channels=4, kernel_size=(3, 3), padding=(1, 1))


def block_of(name: str) -> MultiBranchConv2d:
    block = build_block(SPEC, name).double().eval()
    fill_convs(randomise(block))
    return block


def test_shares_are_the_norms_of_the_folded_branches():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), block_of("kxk+bare_identity"))
    conv, bn = model.get_submodule("1.branches.kxk.conv"), model.get_submodule("1.branches.kxk.bn")
    assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d) and bn.running_var is not None
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    kxk = (conv.weight * scale[:, None, None, None]).norm().item()
    identity = 2.0  # the norm of a 4x4 identity
    shares = branch_shares(model)
    assert list(shares) == ["1"]
    assert shares["1"]["kxk"] == pytest.approx(kxk / (kxk + identity), rel=1e-12)
    assert sum(shares["1"].values()) == pytest.approx(1, rel=1e-12)


def test_a_network_without_blocks_has_no_shares():
    assert branch_shares(nn.Conv2d(3, 4, 3)) == {}


def test_training_shows_the_shares_in_tensorboard(tmp_path):
    with SummaryWriter(str(tmp_path)) as log:
        log_shares(log, nn.Sequential(OrderedDict(stem=block_of("acb"))), Progress(step=7))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["share/stem/hor", "share/stem/kxk", "share/stem/ver"]
    assert events.Scalars("share/stem/kxk")[0].step == 7


def test_equivalent_l2_is_half_the_squared_norm_of_what_will_be_deployed():
    model = nn.Sequential(block_of("repvgg"), block_of("dbb")).eval()
    deployed = zoo.deploy(model, torch.randn(1, 4, 8, 8, dtype=torch.float64))
    kernels = [deployed.get_parameter(f"{index}.weight") for index in (0, 1)]
    wanted = 0.5 * torch.stack([kernel.square().sum() for kernel in kernels]).sum()
    torch.testing.assert_close(equivalent_l2(model), wanted, rtol=1e-12, atol=0)


def test_the_penalties_reach_every_branch():
    for penalty in (equivalent_l2, channel_lasso):
        model = block_of("dbb").train()
        penalty(model).backward()
        kernels = {name: p for name, p in model.named_parameters() if name.endswith("weight")}
        assert len(kernels) == 11
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in kernels.values())


def test_channel_lasso_is_the_weighted_sum_of_filter_norms():
    model = block_of("acb")
    conv = model.fuse()
    wanted = 6 * conv.weight.flatten(1).norm(dim=1).sum()  # √36 weights a filter
    torch.testing.assert_close(channel_lasso(model), wanted, rtol=1e-9, atol=0)


def test_channel_lasso_takes_whole_filters_to_zero():
    model = block_of("kxk+1x1").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    target = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)  # only two filters are wanted
    start = model.equivalent_kernel().weight.detach().flatten(1).norm(dim=1)
    for _ in range(300):
        optimizer.zero_grad()
        norms = model.equivalent_kernel().weight.flatten(1).norm(dim=1)
        (((norms - start) * target).square().sum() + 0.05 * channel_lasso(model)).backward()
        optimizer.step()
    norms = model.equivalent_kernel().weight.detach().flatten(1).norm(dim=1) / start
    assert norms[2:].max() < 0.1 < 0.5 < norms[:2].min()


def test_a_network_without_blocks_has_nothing_to_penalise():
    with pytest.raises(ValueError, match="no multi-branch block"):
        equivalent_l2(nn.Conv2d(3, 4, 3))
