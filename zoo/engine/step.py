"""One optimiser step, and what happens when its loss is not a number."""

import contextlib
import logging
import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from zoo.data import derive_seed
from zoo.engine import checkpoint
from zoo.engine.config import TrainConfig
from zoo.engine.distributed import Processes, all_sum
from zoo.engine.folder import run_folder
from zoo.engine.hardware import autocast
from zoo.engine.loss import classification_loss
from zoo.engine.state import RunState, StopRequest
from zoo.reparam.regularisers import channel_lasso, equivalent_l2

logger = logging.getLogger(__name__)


class DivergedError(RuntimeError):
    """The loss or its gradient stayed NaN or infinite."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The parts of a run that stay the same while it runs."""

    config: TrainConfig
    processes: Processes
    dtype: torch.dtype
    """autocast precision; float32 is none"""
    stop: StopRequest
    forward: nn.Module
    """the network as the loop calls it: compiled, in DDP, as configured"""

    @property
    def folder(self) -> Path:
        return run_folder(self.config)

    @property
    def how_to_continue(self) -> str:
        return f"state saved in {self.folder / checkpoint.LAST}, continue with --resume auto"


def optimiser_step(run: Run, state: RunState, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[float, int]:
    """Forward and backward over `grad_accum_steps` batches, then one update.

    Returns: the mean loss over batches and processes, and the signal that asks to stop, or 0. If the loss of
    any process or the gradient is NaN or infinite, the mean is NaN and nothing has been updated.
    """
    optim = run.config.optim
    total, signum = 0.0, 0
    for number, (images, targets) in enumerate(batches, start=1):
        # Dropout and drop path. Not earlier: a loader that starts draws from the generator too.
        torch.manual_seed(derive_seed(run.config.run.seed, run.processes.rank, state.progress.step, number))
        with _gradients_stay_here(run.forward, unless=number == optim.grad_accum_steps):
            with autocast(run.processes.device, run.dtype):
                loss = classification_loss(run.forward(images), targets, run.config.augment.smoothing)
            if optim.equivalent_l2:
                loss = loss + optim.equivalent_l2 * equivalent_l2(state.network)
            if optim.channel_lasso:
                loss = loss + optim.channel_lasso * channel_lasso(state.network)
            # Every process must decide alike: whether to skip the step, whether to stop after it.
            own = run.stop.signum  # read once: a signal may come at any moment
            summed, asked = all_sum([loss.item(), float(own)], run.processes)
            mean = summed / run.processes.world_size
            signum = own or (signal.SIGTERM if asked else 0)
            if not math.isfinite(mean):
                state.optimizer.zero_grad()
                list(batches)  # the rest of the step is read all the same: the position in the epoch counts it
                return math.nan, signum
            total += mean / optim.grad_accum_steps
            state.scaler.scale(loss / optim.grad_accum_steps).backward()
    state.scaler.unscale_(state.optimizer)
    gradients = [param.grad for param in state.network.parameters() if param.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if not norm.isfinite() and not state.scaler.is_enabled():  # an enabled scaler skips the step itself
        state.optimizer.zero_grad()
        return math.nan, signum
    if optim.clip_grad:
        torch.nn.utils.clip_grads_with_norm_(state.network.parameters(), optim.clip_grad, norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    if state.ema:
        state.ema.update(state.network, step=state.progress.step + 1)
    return total, signum


def _gradients_stay_here(forward: nn.Module, unless: bool) -> contextlib.AbstractContextManager[None]:
    """In DDP, do not average gradients between processes before the last batch of a step."""
    if isinstance(forward, DistributedDataParallel) and not unless:
        return forward.no_sync()
    return contextlib.nullcontext()


def restore_buffers(buffers: list[Tensor], before: list[Tensor]) -> None:
    """Put a network's buffers back as they were before a failed step.

    A NaN in a batch spreads to BatchNorm's running statistics in the forward pass, before the loss shows it.
    """
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)


def skip_step(run: Run, state: RunState) -> None:
    """Account for a step without finite loss and gradient. Raises: DivergedError beyond the allowed number in a row."""
    progress = state.progress
    progress.nonfinite += 1
    progress.skipped += 1
    logger.warning("step %d: the loss or its gradient is NaN or infinite, step skipped", progress.step)
    if progress.nonfinite > run.config.run.max_nonfinite_steps:
        last = checkpoint.newest(run.folder)
        good = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        raise DivergedError(
            f"the loss or its gradient was NaN or infinite for {progress.nonfinite} steps in a row (epoch "
            f"{progress.epoch + 1}, step {progress.step}): {good}; lower --lr, add --clip-grad, or try "
            "--amp-dtype float32"
        )
