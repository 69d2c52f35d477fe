"""Take a checkpoint of any maker down to its state dict, and what it says of itself."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from zoo.checkpoints.files import CheckpointError, read_content
from zoo.checkpoints.schema import About, Images, is_local, own_arguments
from zoo.untrusted import MAX_KEY, typed

logger = logging.getLogger(__name__)

WEIGHTS = ("state_dict", "model", "model_state_dict")
"""Where training programs put the weights: timm and the DBB and RepGhost repositories, torchvision and RepVGG's."""
AVERAGED = ("state_dict_ema", "model_ema", "ema")
"""Where they put the exponential moving average of the weights: timm and RepGhost, torchvision, RepVGG."""
WRAPPERS = ("module.", "_orig_mod.", "model.")
"""Prefixes that DistributedDataParallel, timm's and torch's averaging, torch.compile, and Lightning and others who hold
the network as `model`, put before every name."""
MAX_TENSORS = 10_000
"""three times as many as the largest network of timm has"""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, read.

    Attributes:
        path: The file.
        state_dict: Name → tensor on the CPU, names as in the file but for wrappers' prefixes.
        metadata: What the file says about itself, its types and bounds those of `zoo.checkpoints.schema.About`; of
            others' files what plain numbers and strings lie beside the weights (timm: `arch`, `epoch`).
    """

    path: Path
    state_dict: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> dict[str, Any]:
        """What the file says of images and classes, as entries of `pretrained_cfg`."""
        said = {key: self.metadata[key] for key in Images.__struct_fields__ if key in self.metadata}
        return {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}

    @property
    def built_with(self) -> dict[str, Any]:
        """What the file says of the arguments of `zoo.create_model` that its network was built with."""
        said = {key: self.metadata[key] for key in ("num_classes", "block") if self.metadata.get(key)}
        return {**(self.metadata.get("model_kwargs") or {}), **said}

    @property
    def model(self) -> str | None:
        """The network's name, if the file gives it.

        Raises:
            CheckpointError: It is a name on a hub or in a folder, which a file may not choose.
        """
        name = self.metadata.get("model", self.metadata.get("arch"))
        if not isinstance(name, str):
            return None
        if not is_local(name):
            raise CheckpointError(f"{self.path}: is of {name!r}, from elsewhere: say so yourself with --model")
        return name


def read_checkpoint(path: str | Path, ema: bool = False, *, allow_nonfinite: bool = False) -> Checkpoint:
    """Read a `.safetensors` file, or one of `torch.save` (`.pth`, `.pt`, `.pth.tar`, `.bin`).

    Nothing in the file is executed, and nothing in it is believed unchecked (`zoo.checkpoints.files`, `.schema`).

    Args:
        ema: Take the averaged weights of a training checkpoint instead of the raw ones.
        allow_nonfinite: Accept NaN, infinite weights and negative variances, with a warning.

    Raises:
        CheckpointError: The file is missing, empty, truncated or no checkpoint, `ema` is not in it, or its weights
            are of a network that cannot work.
    """
    path = Path(path)
    content, metadata = _read(path)
    state = _without_wrappers(_weights(content, ema, path))
    check_weights(state, path, allow_nonfinite)
    return Checkpoint(path, state, metadata)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What a file says about itself, its weights not looked at. Raises: CheckpointError."""
    return _read(Path(path))[1]


def _read(path: Path) -> tuple[Any, dict[str, Any]]:
    content, metadata = read_content(path)
    try:
        return content, _facts(content) if metadata is None else _checked(metadata)
    except ValueError as error:
        raise CheckpointError(f"{path}: what it says of itself is wrong: {error}; save its weights alone") from error


def check_weights(state: Mapping[str, Tensor], path: Path, allow_nonfinite: bool = False) -> None:
    """Refuse tensors that are not what they seem, and weights with which a network computes nonsense.

    Raises:
        CheckpointError: Too many tensors; one that is sparse, complex, quantised, without values, or larger than what
            the file stores of it; NaN, infinity or a negative variance, unless allowed.
    """
    if len(state) > MAX_TENSORS:
        raise CheckpointError(f"{path}: holds {len(state):,} tensors, more than any network; save one state_dict()")
    odd: list[str] = []
    for name, tensor in state.items():
        dense = tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_quantized
        if (
            not dense
            or tensor.is_complex()
            or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        ):
            raise CheckpointError(f"{path}: {name} is no plain tensor of real numbers; save a state_dict() of those")
        if not tensor.isfinite().all():
            odd.append(f"{name} has NaN or infinity")
        elif name.endswith("running_var") and tensor.numel() and tensor.min() < 0:
            odd.append(f"{name} is negative")
    if odd:
        what = f"{path}: {odd[0]}" + (f", and {len(odd) - 1} more tensors are like it" if len(odd) > 1 else "")
        if not allow_nonfinite:
            raise CheckpointError(
                f"{what}; take an earlier checkpoint (all but training load this one with --allow-nonfinite)"
            )
        logger.warning("%s; loaded as asked", what)


def _checked(metadata: Any) -> dict[str, Any]:
    """Metadata of ours with types and bounds as declared, and what plain facts others put beside it."""
    about = msgspec.to_builtins(typed(About, metadata))
    if "model_kwargs" in about:
        about["model_kwargs"] = own_arguments(about["model_kwargs"])
    others = metadata.keys() - set(About.__struct_fields__)
    return _short({key: metadata[key] for key in others}) | about


def _facts(content: Any) -> dict[str, Any]:
    """Collect the numbers and strings beside the weights; of a run of ours also its network and images."""
    if not isinstance(content, Mapping):
        return {}
    config = content.get("config")
    facts = _short(content)
    if not isinstance(config, Mapping) or "version" not in content:
        ours = set(About.__struct_fields__)  # others mean something else by these, but for a name
        if isinstance(facts.get("model"), str):
            ours.remove("model")
        return {key: value for key, value in facts.items() if key not in ours}
    network = config["model"] if isinstance(config.get("model"), Mapping) else {}
    facts |= {key: network.get(key) for key in ("model_kwargs", "block")}
    return _checked(facts | {key: content[key] for key in Images.__struct_fields__ if key in content})


def _short(facts: Mapping[Any, Any]) -> dict[str, str | int | float]:
    """Keep the named numbers and strings that fit a line; of others' files nothing else is shown or looked up."""
    strings = {key: value for key, value in facts.items() if isinstance(value, str) and len(value) <= MAX_KEY}
    numbers = {key: value for key, value in facts.items() if isinstance(value, int | float) and abs(value) <= 2**63}
    return {key: value for key, value in (strings | numbers).items() if isinstance(key, str)}


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
