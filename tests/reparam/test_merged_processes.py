"""Merged training on several processes: gradients reach all, and statistics are those of the whole batch."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.support.merged import SPEC, images, training_step, twins
from tests.support.processes import fresh_process
from zoo.engine.distributed import sum_over_processes
from zoo.reparam.branches import build_block
from zoo.reparam.merged import MergedConv2d, merge


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
