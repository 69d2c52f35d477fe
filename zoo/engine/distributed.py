"""Several processes, one run: torchrun starts them, DDP averages their gradients."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

from zoo.mishaps import first_line


class WorkerLostError(RuntimeError):
    """Another process of the run is gone, never came, or did not answer in time."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those of the run."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """where this one computes"""

    @property
    def is_first(self) -> bool:
        """The process that writes files."""
        return self.rank == 0

    @property
    def distributed(self) -> bool:
        return self.world_size > 1

    @classmethod
    def from_environment(cls) -> "Processes":
        """Read what torchrun says; one process alone if it says nothing."""
        said = {name: os.environ.get(name.upper()) for name in ("rank", "local_rank", "world_size", "local_world_size")}
        ranks: dict[str, Any] = {name: int(value) for name, value in said.items() if value is not None}
        return cls(**ranks)


@contextmanager
def joined(processes: Processes, timeout: int) -> Iterator[None]:
    """The process group of the run (NCCL on GPUs, gloo else) for the time of the block.

    Raises: WorkerLostError when another process is lost, be it before it joined, or one that loads data.
    """
    try:
        if processes.distributed:
            on_gpu = processes.device.type == "cuda"
            if on_gpu:
                torch.cuda.set_device(processes.device)
            dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(seconds=timeout))
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        # The last two: a batch was under way from the loader's process to this one when it ended.
        if not isinstance(error, RuntimeError) or str(error).startswith("DataLoader worker"):
            with suppress(ValueError):  # only the main thread has handlers
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would raise again as the others end
            remedy = "if memory ran out, lower --workers or --batch-size"
            raise WorkerLostError(f"lost a process that loads data ({first_line(error)}): {remedy}") from error
        if processes.distributed and _is_lost_peer(error):
            lost = f"process {processes.rank}: lost another process of the run ({first_line(error)})"
            raise WorkerLostError(lost) from error
        raise
    finally:
        if processes.distributed and dist.is_initialized():
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


def all_sum(values: list[float], processes: Processes) -> list[float]:
    """Sum each of a few numbers over the processes, in float64."""
    if not processes.distributed:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=processes.device)
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
        return sum_over_processes(grads[0])


def sum_over_processes(x: Tensor) -> Tensor:
    """Σ over processes of x, with gradient."""
    total = _AllReduceSum.apply(x)
    assert isinstance(total, Tensor)
    return total


def synchronised_forward(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """What a BatchNorm2d answers in training with the statistics of all processes' batches together.

    torch's SyncBatchNorm refuses CPU tensors; this lets the same recipe run (and be tested) over gloo.
    Mean first, then the mean square distance from it, so that nothing cancels.
    """
    if not norm.training or not dist.is_initialized():
        return nn.BatchNorm2d.forward(norm, x)
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    dtype, axes = x.dtype, (0, 2, 3)
    x = x.to(norm.running_mean.dtype)
    total = sum_over_processes(torch.cat([x.sum(axes), x.new_tensor([x.numel() / x.shape[1]])]))
    count = total[-1].detach()
    centred = x - (total[:-1] / count)[:, None, None]
    square = sum_over_processes(centred.square().sum(axes))
    with torch.no_grad():
        norm.running_mean.lerp_(total[:-1] / count, norm.momentum)
        norm.running_var.lerp_(square / (count - 1), norm.momentum)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
    y = centred * torch.rsqrt(square / count + norm.eps)[:, None, None]
    if norm.affine:
        y = y * norm.weight[:, None, None] + norm.bias[:, None, None]
    return y.to(dtype)


def synchronise_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Let every BatchNorm2d train with statistics over all processes; on the CPU it stays the module that it is.

    Raises: ValueError on CPU for timm's fused BatchNorm-activation layers, which only GPUs can synchronise.
    """
    if device.type == "cuda":
        return convert_sync_batchnorm(model)
    for path, module in list(model.named_modules()):
        if not isinstance(module, nn.BatchNorm2d):
            continue
        if type(module) is not nn.BatchNorm2d or module.momentum is None or not module.track_running_stats:
            raise ValueError(f"sync_bn: {path} ({type(module).__name__}) can be synchronised on GPUs only")
        module.forward = MethodType(synchronised_forward, module)
    return model
