"""Checkpoints: any layout in, ours out, and back."""

from zoo.checkpoints.load import load_checkpoint
from zoo.checkpoints.pretrained import fetch_pretrained
from zoo.checkpoints.read import Checkpoint, CheckpointError, read_checkpoint

__all__ = ["Checkpoint", "CheckpointError", "fetch_pretrained", "load_checkpoint", "read_checkpoint"]
