"""The written record of a run: args.yaml, summary.csv, TensorBoard."""

import csv
import dataclasses
import io
import logging
from pathlib import Path

import yaml
from torch import nn
from torch.utils.tensorboard.writer import SummaryWriter

from zoo.atomic import atomic_write
from zoo.engine.config import TrainConfig
from zoo.engine.state import Progress
from zoo.reparam.shares import branch_shares

logger = logging.getLogger(__name__)


def open_log(config: TrainConfig, folder: Path, progress: Progress) -> SummaryWriter:
    """Write args.yaml, which `--config` takes, and open TensorBoard, dropping what lies after `progress`."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {key: value for section in dataclasses.asdict(config).values() for key, value in section.items()}
    with atomic_write(folder / "args.yaml") as temporary:
        temporary.write_text(yaml.safe_dump({k: v for k, v in settings.items() if v is not None}, sort_keys=False))
    return SummaryWriter(str(folder / "tensorboard"), purge_step=progress.step or None)


def log_step(log: SummaryWriter, progress: Progress, loss: float, lr: float) -> None:
    """Loss and learning rate of a step."""
    log.add_scalar("train/loss", loss, progress.step)
    log.add_scalar("train/lr", lr, progress.step)


def log_epoch(log: SummaryWriter, folder: Path, progress: Progress) -> None:
    """The row of the last epoch, everywhere.

    summary.csv is written whole, from the state, so a resumed run cannot repeat a row.
    """
    row = progress.history[-1]
    text = io.StringIO()
    columns = dict.fromkeys(key for line in progress.history for key in line)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(progress.history)
    with atomic_write(folder / "summary.csv") as temporary:
        temporary.write_text(text.getvalue())
    for key in row.keys() - {"epoch", "step"}:
        log.add_scalar(f"epoch/{key}", row[key], progress.step)
    log.flush()
    logger.info("  ".join(f"{key} {value:.4g}" for key, value in row.items()))


def log_shares(log: SummaryWriter, network: nn.Module, progress: Progress) -> None:
    """How much of each block's equivalent kernel every branch makes up: which branch earns its place."""
    for block, shares in branch_shares(network).items():
        for branch, share in shares.items():
            log.add_scalar(f"share/{block}/{branch}", share, progress.step)
