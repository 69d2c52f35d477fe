"""The state of a run on disk: whole at any moment, the previous one kept, readable without trusting it."""

import dataclasses
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta, Struct
from torch import Tensor

from zoo.atomic import atomic_write
from zoo.checkpoints.files import CheckpointError, read_content
from zoo.checkpoints.read import read_metadata
from zoo.checkpoints.schema import Classes, Name, is_local, own_arguments
from zoo.engine.config import ModelConfig, TrainConfig
from zoo.mishaps import first_line
from zoo.settings import flatten
from zoo.untrusted import Count, typed

VERSION = 1
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


@dataclass(kw_only=True)
class Progress:
    """The position of a run, and what it has seen."""

    epoch: Count = 0
    batch: Count = 0
    """batches of this epoch that are done"""
    step: Count = 0
    """steps of the schedule that are done, skipped ones included"""
    loss_sum: float = 0.0
    """of this epoch, over steps"""
    loss_count: Count = 0
    nonfinite: Count = 0
    """steps in a row that were skipped for a NaN or infinite loss"""
    skipped: Count = 0
    """steps skipped in all"""
    best_top1: Annotated[float, Meta(ge=-1, le=100)] = -1.0
    best_epoch: Annotated[int, Meta(ge=-1)] = -1
    history: list[dict[Name, int | float | None]] = field(default_factory=list)
    """one row of summary.csv per epoch"""


class OptimizerState(Struct):
    """The state of a torch optimiser, as its `state_dict` gives it."""

    state: dict[int, dict[Name, Any]]
    param_groups: list[dict[Name, Any]]


class SavedRun(Struct):
    """The content of `last.pt`; how the file is read, and checked."""

    version: Literal[1]
    model: Name | None
    num_classes: Classes
    global_batch: Annotated[int, Meta(ge=1)]
    """images per optimiser step, over all processes"""
    config: TrainConfig
    progress: Progress
    optimizer: OptimizerState
    scaler: dict[Name, int | float]
    state_dict: dict[str, Tensor]
    state_dict_ema: dict[str, Tensor] | None


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write `last.pt`; what was `last.pt` becomes `previous.pt`.

    The new file is complete and on the disk before it takes the name, so whenever the process dies, `last.pt`
    is whole. Raises: OSError naming the file (disk full, …); `last.pt` is then as it was.
    """
    last = folder / LAST
    with atomic_write(last) as temporary:
        torch.save({"version": VERSION, **state}, temporary)
        if last.exists():
            link(last, folder / PREVIOUS)


def link(source: Path, target: Path) -> None:
    """Give a file a second name in one step, at no cost in space; an old file of that name goes.

    Where there are no hard links (exFAT, SMB, another file system), it becomes a copy.
    """
    temporary = target.with_name(f".tmp-{target.name}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        with atomic_write(target) as copy:
            shutil.copyfile(source, copy)
    else:
        os.replace(temporary, target)
        temporary.unlink(missing_ok=True)  # renaming onto a name of the same file does nothing


def load(path: Path) -> SavedRun:
    """Read a checkpoint of a run. Nothing in it is executed, everything has its type and bounds.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is damaged, of another version, or no checkpoint of a run; the message names `previous.pt`
            if there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    previous = path.with_name(PREVIOUS)
    remedy = f"; continue with --resume {previous}" if path.name == LAST and previous.exists() else ""
    try:
        content, _ = read_content(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({first_line(error)}){remedy}") from error
    if not isinstance(content, Mapping) or set(SavedRun.__struct_fields__) - content.keys():
        raise CheckpointError(f"{path}: not a checkpoint of a training run (weights to start from go to --checkpoint)")
    if isinstance(content["version"], int) and content["version"] != VERSION:
        version = str(content["version"])[:20]
        raise CheckpointError(f"{path}: is of version {version}, not {VERSION}: continue it with the zoo that wrote it")
    try:
        return typed(SavedRun, content)
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: {error}{remedy or '; start anew, from its weights'}") from error


def newest(folder: Path) -> Path | None:
    """The last checkpoint of the run in a folder, if there is one."""
    return folder / LAST if (folder / LAST).is_file() else None


def is_run(path: Path) -> bool:
    """Tell whether a file is a checkpoint of a run, and not mere weights."""
    return {"version", "global_batch"} <= read_metadata(path).keys()


def describe(path: str | None) -> dict[str, Any]:
    """Read what a file of ours says of its network, as settings of ModelConfig; of no file, nothing."""
    metadata = read_metadata(path) if path else {}
    if "model" not in metadata:
        return {}
    return {key: metadata[key] for key in ("model", "num_classes", "model_kwargs", "block") if key in metadata}


def settle(config: ModelConfig, known: dict[str, Any]) -> ModelConfig:
    """The network with what is left open as its checkpoint knows it, unless another network is asked for.

    Raises: ValueError if the checkpoint is of a network on a hub or in a folder, and nobody asked for that.
    """
    if config.model not in (None, known.get("model")):
        return config
    if config.model is None and not is_local(known.get("model") or "_"):
        raise ValueError(f"{config.checkpoint}: is of {known['model']!r}, from elsewhere: say so yourself with --model")
    return dataclasses.replace(
        config,
        model=known.get("model"),
        block=config.block or known.get("block"),
        model_kwargs={**(known.get("model_kwargs") or {}), **config.model_kwargs},
    )


# ---- what a file may choose of the run that continues it

NEVER = ("output", "results_file", "resume", "overwrite", "checkpoint", "pretrained")
"""What is written where, and read from where; the weights are the file's own."""
SOURCE = ("dataset", "data_dir", "train_split", "val_split")
PLAIN_SETS = ("", "folder", "tar", "fashion", "zoo/fashion")


def remembered(config: TrainConfig) -> dict[str, Any]:
    """The settings of a saved run by which it continues: all but those that reach out of its folder and its data.

    A checkpoint may come from anywhere, so it does not choose which files are overwritten, which commands and network
    connections a stream of images opens, or which hub the network's code and weights come from.
    """
    settings = flatten(dataclasses.asdict(config))
    withheld = [*NEVER]
    if not _is_plain_source(settings):
        withheld += SOURCE
    if not is_local(settings["model"] or "_"):
        withheld.append("model")
    try:
        settings["model_kwargs"] = own_arguments(settings["model_kwargs"])
    except ValueError:
        withheld.append("model_kwargs")
    return {key: value for key, value in settings.items() if key not in withheld}


def _is_plain_source(settings: Mapping[str, Any]) -> bool:
    """Tell whether images come from a folder, a tar file or the package, and the splits lie in that."""
    splits = (settings["train_split"], settings["val_split"])
    return settings["dataset"] in PLAIN_SETS and all(re.fullmatch(r"\w[\w.-]*", split) for split in splits)


CHANGEABLE = {
    *("checkpoint", "pretrained", "data_dir", "workers", "eval_batch_size", "max_bad_images"),
    *("device", "torchcompile", "threads", "dist_timeout", "output", "resume", "overwrite"),
    *("checkpoint_interval", "log_interval", "val_interval", "max_nonfinite_steps", "results_file"),
}
"""What may change when a run is continued: where it runs and what it reports."""


def check_same_settings(path: Path, saved: TrainConfig, config: TrainConfig) -> None:
    """Raises: ValueError naming a setting in which the run that continues differs from the saved one."""
    known, now = remembered(saved), flatten(dataclasses.asdict(config))
    for key, old in flatten(dataclasses.asdict(saved)).items():
        new = now[key]
        if key == "model_kwargs" and key in known:
            old, new = known[key], {k: v for k, v in new.items() if k in known[key] or k not in old}
        if old == new or key in CHANGEABLE:
            continue
        if key in known:
            raise ValueError(f"resume: {path} was started with {key} {old}, not {new}")
        flags = SOURCE if key in SOURCE else (key,)
        again = ", ".join(f"--{flag.replace('_', '-')}" for flag in flags)
        raise ValueError(f"resume: {path} was started with {key} {old}, which a file may not choose: repeat {again}")
