"""Published weights: from the Hugging Face hub where they are, else where to get them."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from zoo.checkpoints.read import CheckpointError
from zoo.paper import tables

FILE = "model.safetensors"


def fetch_pretrained(model: str) -> Path:
    """The file of a network's published weights, downloaded once into the Hugging Face cache.

    Raises:
        CheckpointError: There are none on the hub (says where else, and what to pass to `--checkpoint`), or the hub
            cannot be reached.
    """
    published = tables.published(model)
    weights = published.weights if published else tables.Weights()
    if weights.hub is None:
        raise CheckpointError(f"{model}: {_elsewhere(weights)}")
    try:
        return Path(hf_hub_download(weights.hub, FILE))
    except (HfHubHTTPError, OSError, ValueError) as error:  # the hub's own errors for being offline are of these
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"{model}: {FILE} of {weights.hub} could not be fetched ({reason[:120]}); go online once, or download "
            f"https://huggingface.co/{weights.hub}/resolve/main/{FILE} elsewhere and pass the file to --checkpoint"
        ) from error


def _elsewhere(weights: tables.Weights) -> str:
    note = f" ({weights.note})" if weights.note else ""
    if weights.url is None:
        return f"no weights were published{note}; train it, or pass a file of yours to --checkpoint"
    return f"no weights on the Hugging Face hub; get the file from {weights.url}{note} and pass it to --checkpoint"
