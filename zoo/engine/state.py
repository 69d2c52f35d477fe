"""The state of a run: what it must remember to continue as if nothing had happened.

Randomness needs no memory: every draw is a function of the seed and of where the run is (`zoo.data.seeding`).
The schedule needs none either: it is a function of the step.
"""

import signal
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from zoo.checkpoints.read import check_weights
from zoo.engine import checkpoint
from zoo.engine.checkpoint import OptimizerState, Progress
from zoo.mishaps import first_line

Item = TypeVar("Item")


@dataclass(kw_only=True)
class RunState:
    """The parts of a run that change, and their way to and from a checkpoint."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: ModelEmaV3 | None
    progress: Progress
    identity: dict[str, Any]
    """what the run is, kept beside the state: model, num_classes, global_batch, config"""

    def weights(self) -> dict[str, nn.Module]:
        """The network with its raw weights, and the one with their average if there is one."""
        return {"raw": self.network} | ({"ema": self.ema.module} if self.ema else {})

    def save(self, folder: Path) -> None:
        """Write `last.pt` in `folder`; the previous one is kept."""
        checkpoint.save(
            folder,
            {
                **self.identity,
                "state_dict": self.network.state_dict(),
                "state_dict_ema": self.ema.module.state_dict() if self.ema else None,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "progress": asdict(self.progress),
            },
        )

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises: ValueError if it is of a run that steps in other batches, or its parts do not fit the network.
        """
        saved = checkpoint.load(path)
        if saved.global_batch != self.identity["global_batch"]:
            raise ValueError(
                f"resume: {path} was trained with {saved.global_batch} images per step over all processes, this "
                f"run has {self.identity['global_batch']}: continue with as many processes as it was started with"
            )
        check_weights(saved.state_dict, path)
        check_weights(saved.state_dict_ema or {}, path)
        for number, kept in saved.optimizer.state.items():
            tensors = {f"optimizer: {key} of {number}": item for key, item in kept.items() if isinstance(item, Tensor)}
            check_weights(tensors, path)
        try:
            self.network.load_state_dict(saved.state_dict)
            if self.ema:
                self.ema.module.load_state_dict(saved.state_dict_ema or {})
            _load_optimizer(self.optimizer, saved.optimizer)
            self.scaler.load_state_dict(saved.scaler)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: does not fit this run: {first_line(error)}; start anew, from its weights"
            ) from error
        self.progress = saved.progress


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: OptimizerState) -> None:
    """Load an optimiser's state; settings keep their types, and what is kept for a parameter has its size.

    Raises: ValueError naming what differs; what torch raises.
    """
    for own, group in zip(optimizer.param_groups, saved.param_groups, strict=True):
        for key in own.keys() | group.keys():
            mine, theirs = own.get(key), group.get(key)
            if not (isinstance(theirs, type(mine)) or {type(mine), type(theirs)} <= {int, float}):
                raise ValueError(f"optimizer: {key} is {type(theirs).__name__}, not {type(mine).__name__}")
    optimizer.load_state_dict(msgspec.structs.asdict(saved))
    for parameter, kept in optimizer.state.items():
        for key, value in kept.items():
            if isinstance(value, Tensor) and value.dim() == parameter.dim() and value.shape != parameter.shape:
                raise ValueError(f"optimizer: {key} is {tuple(value.shape)} for {tuple(parameter.shape)} weights")


class Interrupted(RuntimeError):
    """The run was asked to stop and has saved its state."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


class StopRequest:
    """Turns the first SIGTERM, SIGINT or SIGHUP into a wish that the loop grants after the step; a second one kills.

    A signal that is ignored stays so: `nohup` protects from SIGHUP.

    with StopRequest() as stop:
        ...
        if stop.signum: ...
    """

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[signal.Signals, Callable[[int, types.FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "StopRequest":
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(sig) is not signal.SIG_IGN:
                self._before[sig] = signal.signal(sig, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for sig, handler in self._before.items():
            signal.signal(sig, handler)

    def _note(self, signum: int, frame: types.FrameType | None) -> None:
        if self.signum:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        self.signum = signum

    def watch(self, items: Iterable[Item], where: str) -> Iterator[Item]:
        """The items, until a stop is wanted. Raises: Interrupted."""
        for item in items:
            if self.signum:
                raise Interrupted(self.signum, f"stopped by {signal.Signals(self.signum).name} {where}")
            yield item
