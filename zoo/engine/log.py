"""The record of a run: what is shown while it lasts, args.yaml, summary.csv, TensorBoard.

TensorBoard writes in a thread of its own, which says in a traceback what it cannot write. So whoever logs flushes:
nothing waits when the next call looks for the folder of the run.
"""

import dataclasses
import io
import logging
import sys
from pathlib import Path
from typing import Any

import yaml
from torch import nn
from torch.utils.tensorboard.writer import SummaryWriter
from tqdm import tqdm

from zoo.atomic import atomic_write
from zoo.engine.config import TrainConfig
from zoo.engine.state import Progress
from zoo.reparam.shares import branch_shares
from zoo.results.table import Table
from zoo.settings import flatten

logger = logging.getLogger(__name__)
MESSAGE_SECONDS = 30  # between messages on how far an epoch is


def open_log(config: TrainConfig, folder: Path, progress: Progress) -> SummaryWriter:
    """Write args.yaml, which `--config` takes, and open TensorBoard, dropping what lies after `progress`."""
    settings = {key: value for key, value in flatten(dataclasses.asdict(config)).items() if value is not None}
    with atomic_write(folder / "args.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(settings, sort_keys=False))
    return SummaryWriter(str(folder / "tensorboard"), purge_step=progress.step or None)


def progress_bar(title: str, steps: int, done: int, images_per_step: int, shown: bool) -> "tqdm[Any]":
    """Images per second and time left of an epoch: a bar on a terminal, elsewhere a message twice a minute.

    Args:
        steps, done: Steps of the whole epoch, and those before this bar.
        images_per_step: Over all processes.
    """
    elsewhere: dict[str, Any] = {
        "file": _LogFile(),
        "bar_format": "{desc}: {n_fmt}/{total_fmt} images{postfix}  {rate_fmt}  {remaining} left",
        "mininterval": MESSAGE_SECONDS,
        "delay": MESSAGE_SECONDS,
        "miniters": 1,
    }
    return tqdm(
        desc=title,
        total=steps,
        initial=done,
        unit=" images",
        unit_scale=images_per_step,
        leave=False,
        disable=not shown,
        **({} if sys.stderr.isatty() else elsewhere),
    )


class _LogFile(io.StringIO):
    """A file whose lines become messages of the log."""

    def write(self, text: str) -> int:
        if line := text.strip():
            logger.info(line)
        return len(text)


def log_step(log: SummaryWriter, progress: Progress, loss: float, lr: float) -> None:
    """Loss and learning rate of a step. Raises: OSError if the folder of the run is gone."""
    if not Path(log.log_dir).is_dir():
        raise OSError(f"{Path(log.log_dir).parent}: the folder of the run was removed while it lasted")
    log.add_scalar("train/loss", loss, progress.step)
    log.add_scalar("train/lr", lr, progress.step)
    log.flush()


def log_epoch(log: SummaryWriter, folder: Path, progress: Progress) -> None:
    """The row of the last epoch, everywhere.

    summary.csv is written whole, from the state, so a resumed run cannot repeat a row.
    """
    row = progress.history[-1]
    with atomic_write(folder / "summary.csv") as temporary:
        temporary.write_text(Table.of(progress.history).csv())
    for key in row.keys() - {"epoch", "step"}:
        log.add_scalar(f"epoch/{key}", row[key], progress.step)
    log.flush()
    logger.info("  ".join(f"{key} {value:.4g}" for key, value in row.items()))


def log_shares(log: SummaryWriter, network: nn.Module, progress: Progress) -> None:
    """Log the share of each block's equivalent kernel that every branch makes up."""
    for block, shares in branch_shares(network).items():
        for branch, share in shares.items():
            log.add_scalar(f"share/{block}/{branch}", share, progress.step)
    log.flush()
