"""Load a checkpoint of either structure into a network."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from zoo.reparam.deploy import deploy


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the remedy."""


def load_into(model: nn.Module, path: str | Path) -> nn.Module:
    """The network with a checkpoint's weights, deployed first if the checkpoint is."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    if state.keys() != model.state_dict().keys():
        model = deploy(model.eval(), verify=False)
    model.load_state_dict(state)
    return model


def fetch_pretrained(name: str) -> Path:
    """Fetch the published weights of a network."""
    raise CheckpointError(f"{name}: no published weights are known")
