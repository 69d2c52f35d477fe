"""Published weights: from the Hugging Face hub where they are, else where to get them."""

import contextlib
import urllib.error
import urllib.request
from pathlib import Path

import timm
import torchvision
from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from zoo.checkpoints.files import CheckpointError
from zoo.mishaps import first_line
from zoo.published import tables

FILE = "model.safetensors"
SECONDS = 5


def fetch_pretrained(model: str) -> Path:
    """Find the file of a network's published weights, downloaded once into the Hugging Face cache.

    Raises:
        CheckpointError: There are none on the hub (says where else, and what to pass to `--checkpoint`), or the hub
            cannot be reached.
    """
    weights = _weights(model)
    if weights.hub is None:
        raise CheckpointError(f"{model}: {_elsewhere(model, weights)}")
    cached = try_to_load_from_cache(weights.hub, FILE)
    if isinstance(cached, str):
        return Path(cached)
    url = hf_hub_url(weights.hub, FILE)
    try:
        check_reachable(url)
        return Path(hf_hub_download(weights.hub, FILE))
    except (HfHubHTTPError, OSError, ValueError) as error:  # the hub's own errors for being offline are of these
        reason = first_line(error)
    raise CheckpointError(
        f"{model}: {FILE} of {weights.hub} could not be fetched ({reason}); go online once, or download {url} "
        "elsewhere and pass the file to --checkpoint"
    )


def published_on_hub(model: str) -> str | None:
    """Name the repository of the Hugging Face hub that holds a network's published weights, if one does."""
    return _weights(model).hub


def _weights(model: str) -> tables.Weights:
    published = tables.published(model)
    return published.weights if published else tables.Weights()


def check_reachable(url: str) -> None:
    """Ask once whether there is a way to a server: the hub's own client tries for half a minute.

    Raises:
        OSError: There is none.
    """
    with contextlib.suppress(urllib.error.HTTPError):  # an answer, whatever it says
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS).close()


def _elsewhere(model: str, weights: tables.Weights) -> str:
    note = f" ({weights.note})" if weights.note else ""
    if weights.url is not None:
        return f"no weights on the Hugging Face hub; get the file from {weights.url}{note} and pass it to --checkpoint"
    if timm.models.is_model_pretrained(model):  # a plain network, which is timm's
        names = [f"timm/{model}"] + [f"torchvision/{model}"] * (model in torchvision.models.list_models())
        return f"the paper published no weights of it, other libraries do: take {' or '.join(names)}"
    return f"no weights were published{note}; train it, or pass a file of yours to --checkpoint"
