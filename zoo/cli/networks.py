"""A network from what the command line names: a checkpoint file and, where the file does not say, a model."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from zoo.checkpoints import Checkpoint, read_checkpoint
from zoo.cli.errors import UsageError, check_folders
from zoo.reparam.verify import example_input

KEPT = ("num_classes", "block", "model_kwargs", "data")
"""Facts about a network that a file made from another file inherits."""


def add_network_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="weights, in any layout and structure")
    add("--model", metavar="NAME", help="the network's name, if the checkpoint does not hold it")
    add("--num-classes", type=int, metavar="N", help="its classes, if the checkpoint does not hold them")
    add("--ema", action="store_true", help="the averaged weights of a training checkpoint")
    add("--img-size", type=int, metavar="N", help="side in pixels (default: the checkpoint's, or the network's)")


def open_network(
    options: argparse.Namespace, block: str | None = None
) -> tuple[str, nn.Module, Checkpoint, dict[str, Any]]:
    """The network's name, itself in eval mode, the file, and the arguments of `create_model` that it was built with.

    Args:
        block: The branch set it was built with, if the checkpoint does not hold it.

    Raises:
        CheckpointError: Bad file.
        UsageError: Neither file nor options name the network.
    """

    checkpoint = read_checkpoint(options.checkpoint, options.ema)
    name = options.model or checkpoint.model
    if not name:
        raise UsageError(f"{options.checkpoint}: does not say of which network it is: name it with --model")
    built: dict[str, Any] = dict(checkpoint.metadata.get("model_kwargs") or {})
    for key, value in (("num_classes", options.num_classes), ("block", block)):
        if known := value or checkpoint.metadata.get(key):
            built[key] = known
    return name, zoo.create_model(name, checkpoint=checkpoint, **built).eval(), checkpoint, built


def example_for(model: nn.Module, checkpoint: Checkpoint, img_size: int | None, batch_size: int = 2) -> Tensor:
    """Random images of the size asked for, trained with, or declared by the network."""
    if img_size is not None and img_size < 1:
        raise UsageError(f"--img-size must be at least 1, got {img_size}")
    declared = example_input(model, batch_size)
    side = img_size or (checkpoint.metadata.get("data") or {}).get("img_size")
    size = (side, side) if side else declared.shape[2:]
    return torch.randn(*declared.shape[:2], *size, generator=torch.Generator().manual_seed(0))


def inherited(checkpoint: Checkpoint) -> dict[str, Any]:
    return {key: checkpoint.metadata[key] for key in KEPT if checkpoint.metadata.get(key) is not None}


def check_output(path: str) -> None:
    """Refuse a place nobody can write to before the work. Raises: UsageError."""
    check_folders(path)
    if Path(path).suffix != ".safetensors":
        raise UsageError(f"--output {path}: must end in .safetensors, which holds what the network is")
