"""The state of a run on disk: whole at any moment, the previous one kept, readable without trusting it."""

import dataclasses
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from zoo.atomic import atomic_write
from zoo.checkpoints import read_checkpoint
from zoo.engine.config import ModelConfig
from zoo.engine.messages import first_line

VERSION = 1
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
KEYS = {
    *("version", "model", "num_classes", "global_batch", "config"),
    *("progress", "optimizer", "scaler", "state_dict", "state_dict_ema"),
}
UNREADABLE = (RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError, ValueError)
"""What torch.load raises on bytes that are no checkpoint."""


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write `last.pt`; what was `last.pt` becomes `previous.pt`.

    The new file is complete and on the disk before it takes the name, so whenever the process dies, `last.pt`
    is whole. Raises: OSError naming the file (disk full, …); `last.pt` is then as it was.
    """
    last = folder / LAST
    with atomic_write(last) as temporary:
        try:
            torch.save({"version": VERSION, **state}, temporary)
        except RuntimeError as error:  # torch's zip writer reports a full disk so
            raise OSError(0, f"writing failed (disk full?): {first_line(error)}") from error
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


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a run. Nothing in it is executed (`weights_only`).

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or no checkpoint of a run; the message names `previous.pt` if there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    previous = path.with_name(PREVIOUS)
    remedy = f"; continue with --resume {previous}" if path.name == LAST and previous.exists() else ""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{path}: damaged or not a checkpoint ({first_line(error)}){remedy}") from error
    if not isinstance(state, dict) or KEYS - state.keys():
        raise ValueError(f"{path}: not a checkpoint of a training run (weights to start from go to --checkpoint)")
    return state


def newest(folder: Path) -> Path | None:
    """The last checkpoint of the run in a folder, if there is one."""
    return folder / LAST if (folder / LAST).is_file() else None


def is_run(path: Path) -> bool:
    """Whether a file is a checkpoint of a run (and not mere weights)."""
    return {"version", "global_batch"} <= read_checkpoint(path).metadata.keys()


def describe(path: str | None) -> dict[str, dict[str, Any]]:
    """What a file of ours says of its network and images, as `model` and `data` settings; of no file, nothing."""
    metadata = read_checkpoint(path).metadata if path else {}
    if "model" not in metadata:
        return {"model": {}, "data": {}}
    model = {key: metadata[key] for key in ("model", "num_classes", "model_kwargs", "block") if key in metadata}
    return {"model": model, "data": metadata.get("data", {})}


def settle(config: ModelConfig, known: dict[str, Any]) -> ModelConfig:
    """The network with what is left open as its checkpoint knows it, unless another network is asked for."""
    if config.model not in (None, known.get("model")):
        return config
    return dataclasses.replace(
        config,
        model=known.get("model"),
        block=config.block or known.get("block"),
        model_kwargs={**known.get("model_kwargs", {}), **config.model_kwargs},
    )
