"""What a run must remember to continue as if nothing had happened.

Randomness needs no memory: every draw is a function of the seed and of where the run is (`zoo.data.seeding`).
The schedule needs none either: it is a function of the step.
"""

import signal
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from timm.utils import ModelEmaV3
from torch import nn

from zoo.engine import checkpoint
from zoo.engine.config import TrainConfig
from zoo.engine.messages import first_line

Item = TypeVar("Item")


@dataclass(kw_only=True)
class Progress:
    """Where a run is, and what it has seen."""

    epoch: int = 0
    batch: int = 0
    """batches of this epoch that are done"""
    step: int = 0
    """steps of the schedule that are done, skipped ones included"""
    loss_sum: float = 0.0
    """of this epoch, over steps"""
    loss_count: int = 0
    nonfinite: int = 0
    """steps in a row that were skipped for a NaN or infinite loss"""
    skipped: int = 0
    """steps skipped in all"""
    best_top1: float = -1.0
    best_epoch: int = -1
    history: list[dict[str, Any]] = field(default_factory=list)
    """one row of summary.csv per epoch"""


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
        """Continue from a checkpoint. Raises: ValueError if it is of a run that steps in other batches."""
        saved = checkpoint.load(path)
        if saved["global_batch"] != self.identity["global_batch"]:
            raise ValueError(
                f"resume: {path} was trained with {saved['global_batch']} images per step over all processes, this "
                f"run has {self.identity['global_batch']}: continue with as many processes as it was started with"
            )
        try:
            self.network.load_state_dict(saved["state_dict"])
            if self.ema:
                self.ema.module.load_state_dict(saved["state_dict_ema"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scaler.load_state_dict(saved["scaler"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: does not fit this run: {first_line(error)}") from error
        self.progress = Progress(**saved["progress"])


def check_same_settings(path: Path, saved: dict[str, Any], config: TrainConfig) -> None:
    """Raises: ValueError naming a setting in which the run that continues differs from the saved one."""
    for section, settings in asdict(config).items():
        for key, value in settings.items():
            before = saved["config"].get(section, {}).get(key, value)
            if before != value and key not in CHANGEABLE:
                raise ValueError(f"resume: {path} was started with {key} {before}, not {value}")


# What may change when a run is continued: where it runs and what it reports.
CHANGEABLE = {
    *("checkpoint", "pretrained", "data_dir", "workers", "eval_batch_size", "max_bad_images"),
    *("device", "torchcompile", "threads", "dist_timeout", "output", "resume", "overwrite"),
    *("checkpoint_interval", "log_interval", "val_interval", "max_nonfinite_steps", "results_file"),
}


class Interrupted(RuntimeError):
    """The run was asked to stop and has saved its state."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


class StopRequest:
    """Turns the first SIGTERM or SIGINT into a wish that the loop grants after the step; a second one kills.

    with StopRequest() as stop:
        ...
        if stop.signum: ...
    """

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[signal.Signals, Callable[[int, types.FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "StopRequest":
        for sig in (signal.SIGTERM, signal.SIGINT):
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
