"""Load a checkpoint of any layout and either structure into a network."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.checkpoints.read import Checkpoint, CheckpointError, read_checkpoint
from zoo.checkpoints.recognise import Candidates, Match, classifier, looks_like, recognise
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.deploy import deploy

logger = logging.getLogger(__name__)


def load_checkpoint(
    model: nn.Module,
    checkpoint: str | Path | Checkpoint,
    *,
    ema: bool = False,
    num_classes: int | None = None,
    name: str | None = None,
    candidates: Candidates = (),
) -> nn.Module:
    """Load weights; the structure, train or deployed, is that of the file and recognised by its names.

    A file in training structure is loaded into `model` itself. One in deployed structure gives a new network, in
    eval mode and with every foldable BatchNorm folded. Loading is strict, with three exceptions that timm makes too:
    the classifier follows the file's number of classes, an image of other than three channels gets the first
    convolution adapted, and plain weights of the same network go into the K×K branches as a warm start (the other
    branches then start with scale 0, so that the function is that of the plain network).

    Args:
        model: A network of ours in training structure, on any device; on meta nothing is initialised in vain.
        checkpoint: A file in any layout we know, or what `read_checkpoint` made of it.
        ema: Take the averaged weights.
        num_classes: If the file's classifier has another number, replace it by a fresh one and say so.
        name: What error messages call the network.
        candidates: Other networks (name, constructor) among which an error message looks for the right one.

    Raises:
        CheckpointError: Not readable, or of another network: says what differs and what it looks like.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint, ema)
    name = name or type(model).__name__
    match = recognise(model, checkpoint)
    if not match.fits:
        raise CheckpointError(f"{_misfit(name, checkpoint, match)}; {_advice(checkpoint, candidates)}")
    network = match.network
    _resize_head(network, checkpoint, match)
    if unfit := _load(network, checkpoint, match):
        raise CheckpointError(
            f"{checkpoint.path}: its names are those of {name}, but {len(unfit)} of {len(match.names)} tensors "
            f"differ in size ({_some(unfit)}); {_advice(checkpoint, candidates)}"
        )
    if match.structure == "blocks deployed":
        network = deploy(network, verify=False)
    _replace_head(network, checkpoint, num_classes)
    return network


def _load(network: nn.Module, checkpoint: Checkpoint, match: Match) -> list[str]:
    """Put the tensors into the network; if any differs in size, none, and say which."""
    own, state, unfit = network.state_dict(), {}, []
    for theirs, native in match.names.items():
        if theirs not in checkpoint.state_dict:
            continue
        like = own[native]
        tensor = _adapted(checkpoint.state_dict[theirs], like.shape)
        if tensor.shape != like.shape:
            unfit.append(f"{theirs} is {_size(tensor)} where the network has {_size(like)}")
        # A copy: the network must not keep alive, or change, what else the file's storages hold.
        state[native] = tensor.to(like.dtype, memory_format=torch.contiguous_format, copy=True)
    if unfit:
        return unfit
    on_meta = any(tensor.is_meta for tensor in own.values())
    if on_meta:
        _initialise(network, state)
    network.load_state_dict(state, strict=False, assign=on_meta)  # names were compared before
    if match.layout.name == "plain" and len(state) < len(own):
        _silence_other_branches(network)
        logger.warning("%s: plain weights, loaded into the K×K branches; the others start at scale 0", checkpoint.path)
    return []


def _adapted(tensor: Tensor, shape: torch.Size) -> Tensor:
    """A kernel that reads colour images as one that reads `shape[1]` channels; anything else as it is."""
    reads_image = tensor.dim() == 4 and tensor.shape[1] == 3 and len(shape) == 4
    if reads_image and shape[1] != 3 and tensor.shape[0] == shape[0] and tensor.shape[2:] == shape[2:]:
        return adapt_input_conv(shape[1], tensor)
    return tensor


def _initialise(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Initialise as usual those layers of a network on the meta device that `state` does not fill altogether."""
    for name, module in network.named_modules():
        tensors = [*module.named_parameters(name, recurse=False), *module.named_buffers(name, recurse=False)]
        if any(tensor.is_meta and key not in state for key, tensor in tensors):
            module.to_empty(device="cpu", recurse=False)
            module.reset_parameters()  # pyright: ignore[reportCallIssue]


def _silence_other_branches(network: nn.Module) -> None:
    """Scale 0 for every branch but K×K: the network computes what the plain one does, and its gradients flow."""
    for block in network.modules():
        if isinstance(block, MultiBranchConv2d):
            for name, branch in block.branches.items():
                *_, last = branch.children()
                if name != "kxk" and isinstance(last, _BatchNorm):
                    nn.init.zeros_(last.weight)


def _resize_head(network: nn.Module, checkpoint: Checkpoint, match: Match) -> None:
    """Give the network as many classes as the file has."""
    key = f"{classifier(network)}.weight"
    theirs = next((theirs for theirs, native in match.names.items() if native == key), None)
    if theirs is None or checkpoint.state_dict[theirs].shape[0] == network.get_parameter(key).shape[0]:
        return
    network.reset_classifier(checkpoint.state_dict[theirs].shape[0])  # pyright: ignore[reportCallIssue]


def _replace_head(network: nn.Module, checkpoint: Checkpoint, num_classes: int | None) -> None:
    name = classifier(network)
    if num_classes is None or name is None:
        return
    weight = network.get_parameter(f"{name}.weight")
    if weight.shape[0] == num_classes:
        return
    if num_classes:
        logger.warning(
            "%s: its classifier has %d classes; one of %d, freshly initialised, takes its place",
            checkpoint.path, weight.shape[0], num_classes,
        )  # fmt: skip
    network.reset_classifier(num_classes)  # pyright: ignore[reportCallIssue]
    network.to(weight.device, weight.dtype).train(network.training)


def _misfit(name: str, checkpoint: Checkpoint, match: Match) -> str:
    differing = []
    if match.missing:
        differing.append(f"{len(match.missing)} names are missing ({_some(match.missing)})")
    if match.unknown:
        differing.append(f"{len(match.unknown)} are unknown ({_some(match.unknown)})")
    layout = f"{match.layout.name} layout, {match.structure}"
    return f"{checkpoint.path}: not a checkpoint of {name}: of the nearest ({layout}) {' and '.join(differing)}"


def _advice(checkpoint: Checkpoint, candidates: Candidates) -> str:
    model = checkpoint.model or looks_like(checkpoint, candidates)
    return f"it is of {model}: pass that as the model" if model else "check the name of the network"


def _some(items: list[str]) -> str:
    return ", ".join(items[:3]) + (", …" if len(items) > 3 else "")


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape))
