"""Several processes, one run: torchrun starts them, DDP averages their gradients."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

from zoo.engine.messages import first_line
from zoo.reparam.fold import NORM_FORWARDS


class WorkerLostError(RuntimeError):
    """Another process of the run is gone or did not answer in time."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those of the run."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1

    @property
    def is_first(self) -> bool:
        """The process that writes files."""
        return self.rank == 0

    @property
    def distributed(self) -> bool:
        return self.world_size > 1

    @classmethod
    def from_environment(cls) -> "Processes":
        """What torchrun says; alone if it says nothing."""
        value = {name: int(os.environ.get(name.upper(), default)) for name, default in DEFAULTS.items()}
        return cls(**value)


DEFAULTS = {"rank": 0, "local_rank": 0, "world_size": 1, "local_world_size": 1}


@contextmanager
def joined(processes: Processes, device: torch.device, timeout: int) -> Iterator[None]:
    """The process group of the run (NCCL on GPUs, gloo else) for the time of the block.

    Raises: WorkerLostError, from any collective inside, when another process is lost.
    """
    if not processes.distributed:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout))
    try:
        yield
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        raise WorkerLostError(
            f"process {processes.rank}: lost another process of the run ({first_line(error)})"
        ) from error
    finally:
        dist.destroy_process_group()


def _is_lost_peer(error: RuntimeError) -> bool:
    signs = (
        "Connection closed by peer",
        "Connection reset by peer",
        "Timed out waiting",
        "Broken pipe",
        "gloo",
        "NCCL",
    )
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)


def all_sum(values: list[float], processes: Processes, device: torch.device) -> list[float]:
    """Sum each of a few numbers over the processes, in float64."""
    if not processes.distributed:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def gather(item: Any, processes: Processes) -> list[Any]:
    """Every process's item, in order of rank, on every process."""
    if not processes.distributed:
        return [item]
    items: list[Any] = [None] * processes.world_size
    dist.all_gather_object(items, item)
    return items


class _AllReduceSum(torch.autograd.Function):
    """y = Σ over processes of x; the gradient is summed likewise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone()
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        dist.all_reduce(grad)
        return grad


class CpuSyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of all processes' batches together.

    torch's SyncBatchNorm refuses CPU tensors; this one lets the same recipe run (and be tested) over gloo.
    Mean first, then the mean square distance from it, so that nothing cancels. Folds as any BatchNorm2d does.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        x, axes = input.to(self.running_mean.dtype), (0, 2, 3)
        total = _AllReduceSum.apply(torch.cat([x.sum(axes), x.new_tensor([x.numel() / x.shape[1]])]))
        assert isinstance(total, Tensor)
        count = total[-1].detach()
        centred = x - (total[:-1] / count)[:, None, None]
        square = _AllReduceSum.apply(centred.square().sum(axes))
        assert isinstance(square, Tensor)
        with torch.no_grad():
            self.running_mean.lerp_(total[:-1] / count, self.momentum)
            self.running_var.lerp_(square / (count - 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        y = centred * torch.rsqrt(square / count + self.eps)[:, None, None]
        if self.affine:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return y.to(input.dtype)


NORM_FORWARDS.add(CpuSyncBatchNorm2d.forward)  # in eval mode BatchNorm2d's own


def synchronise_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm2d by one whose statistics are over all processes.

    Raises: ValueError on CPU for timm's fused BatchNorm-activation layers, which only GPUs can synchronise.
    """
    if device.type == "cuda":
        return convert_sync_batchnorm(model)
    for path, module in list(model.named_modules()):
        if not isinstance(module, nn.BatchNorm2d):
            continue
        if type(module) is not nn.BatchNorm2d or module.momentum is None or not module.track_running_stats:
            raise ValueError(f"sync_bn: {path} ({type(module).__name__}) can be synchronised on GPUs only")
        module.__class__ = CpuSyncBatchNorm2d  # same parameters and buffers, another forward
    return model
