"""Read a checkpoint file of any maker, without trusting it, down to its state dict."""

from __future__ import annotations

import argparse
import json
import pickle
import struct
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

WEIGHTS = ("state_dict", "model", "model_state_dict")
"""Where training programs put the weights: timm and the DBB and RepGhost repositories, torchvision and RepVGG's."""
AVERAGED = ("state_dict_ema", "model_ema", "ema")
"""Where they put the exponential moving average of the weights: timm and RepGhost, torchvision, RepVGG."""
WRAPPERS = ("module.", "_orig_mod.", "model.")
"""Prefixes that DistributedDataParallel, timm's and torch's averaging, torch.compile, and Lightning and others who hold
the network as `model`, put before every name."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; one line that names the file and the remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        path: The file.
        state_dict: Name → tensor on the CPU, names as in the file but for wrappers' prefixes.
        metadata: What the file says about itself: of ours `model`, `structure`, `num_classes`, `model_kwargs`,
            `data`, `report`; of others what plain numbers and strings lie beside the weights (timm: `arch`, `epoch`).
    """

    path: Path
    state_dict: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str | None:
        """The network's name, if the file gives it."""
        name = self.metadata.get("model", self.metadata.get("arch"))
        return name if isinstance(name, str) else None


def read_checkpoint(path: str | Path, ema: bool = False) -> Checkpoint:
    """Read a `.safetensors` file, or one of `torch.save` (`.pth`, `.pt`, `.pth.tar`, `.bin`).

    Nothing in the file is executed: tensors, containers, numbers and strings are read, and objects of a few known
    inert classes; anything else is refused.

    Args:
        ema: Take the averaged weights of a training checkpoint instead of the raw ones.

    Raises:
        CheckpointError: The file is missing, empty, truncated or no checkpoint, or `ema` is not in it.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; name a checkpoint file in it")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; check the path")
    with path.open("rb") as file:
        head = file.read(9)
    if not head:
        raise CheckpointError(f"{path}: is empty; copy or download it again")
    if path.suffix == ".safetensors" or head[8:] == b"{":
        content, metadata = _read_safetensors(path)
    else:
        content = _read_torch(path, head)
        metadata = _metadata(content)
    return Checkpoint(path, _without_wrappers(_weights(content, ema, path)), metadata)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get("zoo", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a mapping)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path, head: bytes) -> Any:
    try:
        with torch.serialization.safe_globals(_inert_classes()), warnings.catch_warnings():
            # Of interest if reading fails, which it says.
            warnings.filterwarnings("ignore", "Detected pickle protocol|.*looks like a TorchScript archive")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL " in str(error):
            name = str(error).split("GLOBAL ")[1].split()[0]
            raise CheckpointError(
                f"{path}: holds an object of {name} beside tensors, which is not loaded since that would run code "
                "from the file; save its state_dict() alone"
            ) from error
        raise _damaged(path, error) from error
    except (RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        if "TorchScript archive" in str(error):
            raise CheckpointError(
                f"{path}: is a TorchScript archive, which is a program; save the state_dict() of what it holds"
            ) from error
        raise _damaged(path, error, truncated=head.startswith(b"PK")) from error
    except (AssertionError, struct.error) as error:
        raise _damaged(path, error) from error


def _inert_classes() -> list[Any]:
    """What training programs store beside weights, and what it may become: nothing here runs code when read."""
    scalar = np.float64(0).__reduce__()[0]  # numpy's own constructor; its module has had two names
    kinds = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "bool")]
    return [
        argparse.Namespace,
        np.dtype,
        *kinds,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        (OrderedDict, "yacs.config.CfgNode"),  # RepVGG's main.py stores its configuration, a dictionary
    ]


def _damaged(path: Path, error: BaseException, truncated: bool = False) -> CheckpointError:
    what = "is truncated" if truncated else "is truncated, or not a checkpoint"
    reason = (str(error) or type(error).__name__).splitlines()[0][:120]
    return CheckpointError(f"{path}: {what} ({reason}); copy or download it again")


def _metadata(content: Any) -> dict[str, Any]:
    """The numbers and strings beside the weights; of a run of ours also its network and how images were cut."""
    if not isinstance(content, Mapping):
        return {}
    metadata = {key: value for key, value in content.items() if isinstance(value, str | int | float)}
    config = content.get("config")
    if not isinstance(config, Mapping):
        return metadata
    network, data = (config[key] if isinstance(config.get(key), Mapping) else {} for key in ("model", "data"))
    metadata |= {key: network[key] for key in ("model_kwargs", "block") if network.get(key)}
    cut = {"img_size": data.get("eval_img_size") or data.get("img_size")}
    cut |= {key: data.get(key) for key in ("crop_pct", "interpolation")}
    return metadata | {"data": {key: value for key, value in cut.items() if value}}


def _weights(content: Any, ema: bool, path: Path) -> dict[str, Tensor]:
    """Descend through training checkpoints to the mapping of tensors."""
    while isinstance(content, Mapping):
        averaged = next((key for key in AVERAGED if isinstance(content.get(key), Mapping)), None)
        key = averaged if ema else next((key for key in WEIGHTS if isinstance(content.get(key), Mapping)), None)
        if ema and key is None:
            raise CheckpointError(f"{path}: holds no averaged weights ({', '.join(AVERAGED)}); load the raw ones")
        key = key or averaged
        if key is None:
            break
        content, ema = content[key], False
    if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
        return {str(name): tensor for name, tensor in content.items()}
    held = ", ".join(map(str, list(content)[:4])) if isinstance(content, Mapping) else type(content).__name__
    raise CheckpointError(f"{path}: no weights found in it (it holds: {held or 'nothing'}); save a state_dict()")


def _without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {name: tensor for name, tensor in state.items() if name != "n_averaged"}  # torch's AveragedModel counts
    while prefix := next((p for p in WRAPPERS if state and all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
