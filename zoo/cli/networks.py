"""A network from what the command line names: a checkpoint file and, where the file does not say, a model."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

import zoo
from zoo.checkpoints import Checkpoint, read_checkpoint
from zoo.cli.errors import UsageError
from zoo.data import calibration_images
from zoo.network import preprocessing
from zoo.settings import CalibrationImages, StoredNetwork

KEPT = ("num_classes", "block", "model_kwargs")
"""Facts about a network that a file made from another file inherits."""


def open_network(stored: StoredNetwork, block: str | None = None) -> tuple[str, nn.Module, Checkpoint, dict[str, Any]]:
    """The network's name, itself in eval mode, the file, and the arguments of `create_model` that it was built with.

    Args:
        block: The branch set it was built with, if the checkpoint does not hold it.

    Raises:
        CheckpointError: Bad file.
        UsageError: Neither file nor options name the network, or they contradict each other about its classes.
    """
    checkpoint = read_checkpoint(stored.checkpoint, stored.ema, allow_nonfinite=stored.allow_nonfinite)
    name = stored.model or checkpoint.model
    if not name:
        raise UsageError(f"{stored.checkpoint}: does not say of which network it is: name it with --model")
    built: dict[str, Any] = checkpoint.built_with | ({"block": block} if block else {})
    if stored.num_classes is not None:
        classes = built.setdefault("num_classes", stored.num_classes)
        if classes != stored.num_classes:  # the classifier would be a fresh one
            raise UsageError(f"{stored.checkpoint}: has {classes} classes, not --num-classes {stored.num_classes}")
    return name, zoo.create_model(name, checkpoint=checkpoint, **built).eval(), checkpoint, built


def open_weights(stored: StoredNetwork, pretrained: bool) -> tuple[str, nn.Module]:
    """Open a network with weights, stored or published: its name, and itself in eval mode.

    Raises:
        CheckpointError: Bad file.
        UsageError: Neither or both are asked for, or the network is not named.
    """
    if bool(stored.checkpoint) == pretrained or (pretrained and stored.num_classes):
        raise UsageError(
            "give a checkpoint, or --pretrained with --model (its own classes); random weights are of no use"
        )
    if stored.checkpoint:
        return open_network(stored)[:2]
    if not stored.model:
        raise UsageError("--pretrained: of which network? name it with --model")
    return stored.model, zoo.create_model(stored.model, pretrained=True).eval()


def is_name(text: str) -> bool:
    """Tell the name of a network from that of a file."""
    return not Path(text).exists() and (text.startswith(("timm/", "torchvision/")) or text in zoo.list_models())


def inherited(checkpoint: Checkpoint) -> dict[str, Any]:
    return {key: checkpoint.metadata[key] for key in KEPT if checkpoint.metadata.get(key) is not None}


def calibration(model: nn.Module, example: Tensor, config: CalibrationImages) -> list[Tensor] | None:
    """Load the images that are named, of the example's size and else as the network wants them; None if none are."""
    if config.data_dir is None and not config.dataset:
        return None
    source = (config.dataset, config.data_dir, config.split, config.calibration_images)
    return calibration_images(*source, preprocessing(model), example.shape[-1])
