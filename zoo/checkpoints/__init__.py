"""Checkpoints: any layout in, ours out, and back."""

from zoo.checkpoints.load import load_checkpoint
from zoo.checkpoints.pretrained import fetch_pretrained
from zoo.checkpoints.read import Checkpoint, CheckpointError, read_checkpoint
from zoo.checkpoints.write import in_layout, save_deployed, save_weights

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "fetch_pretrained",
    "in_layout",
    "load_checkpoint",
    "read_checkpoint",
    "save_deployed",
    "save_weights",
]
