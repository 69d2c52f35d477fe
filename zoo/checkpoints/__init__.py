"""Checkpoints: any layout in, ours out."""

from zoo.checkpoints.load import CheckpointError, fetch_pretrained, load_into

__all__ = ["CheckpointError", "fetch_pretrained", "load_into"]
