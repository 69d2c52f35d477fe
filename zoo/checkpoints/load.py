"""Load a checkpoint of any layout and either structure into a network."""

import contextlib
import difflib
import logging
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.checkpoints.files import CheckpointError
from zoo.checkpoints.read import Checkpoint, read_checkpoint
from zoo.checkpoints.recognise import Match, classifier, marked, recognise
from zoo.nearest import some
from zoo.network import declare, input_size
from zoo.reparam.block import MultiBranchConv2d
from zoo.surgery.deploy import deploy

logger = logging.getLogger(__name__)

Candidates = Iterable[tuple[str, Callable[[], nn.Module]]]


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
    match = fit(model, checkpoint, name, candidates)
    if match.elsewhere:
        logger.warning("%s: left out what %s has no place for (%s)", checkpoint.path, name, some(match.elsewhere))
    network = match.network
    _restore_buffers(network, model)
    _load(network, checkpoint, match)
    if match.structure == "blocks deployed":
        network = deploy(network, verify=False)
    _declare_images(network, checkpoint)
    _replace_head(network, checkpoint, num_classes)
    declare(network, num_classes=getattr(network, "num_classes", None))
    return network


def fit(model: nn.Module, checkpoint: Checkpoint, name: str, candidates: Candidates = ()) -> Match:
    """Recognise a checkpoint as one of a network, whose classifier becomes as large as the file's; load nothing.

    Raises:
        CheckpointError: Names, sizes or kinds of numbers differ, or the file contradicts itself.
    """
    match = recognise(model, checkpoint)
    if not match.fits:
        raise CheckpointError(f"{_misfit(name, checkpoint, match)}; {_advice(checkpoint, candidates)}")
    _resize_head(match.network, checkpoint, match)
    own, unfit = match.network.state_dict(), []
    for theirs, native in match.names.items():
        if theirs not in checkpoint.state_dict:
            continue
        tensor, like = checkpoint.state_dict[theirs], own[native]
        if _adapted(tensor, like.shape).shape != like.shape:
            unfit.append(f"{theirs} is {_size(tensor)} where the network has {_size(like)}")
        elif like.is_floating_point() and not tensor.is_floating_point():
            unfit.append(f"{theirs} holds {str(tensor.dtype).removeprefix('torch.')} numbers")
    if unfit:
        raise CheckpointError(
            f"{checkpoint.path}: its names are those of {name}, but {len(unfit)} of {len(match.names)} tensors "
            f"differ in size or kind ({some(unfit)}); {_advice(checkpoint, candidates)}"
        )
    return match


def _load(network: nn.Module, checkpoint: Checkpoint, match: Match) -> None:
    """Put the tensors into the network that they fit."""
    own, state = network.state_dict(), {}
    for theirs, native in match.names.items():
        if theirs in checkpoint.state_dict:
            like = own[native]
            tensor = _adapted(checkpoint.state_dict[theirs], like.shape)
            # A copy: the network must not keep alive, or change, what else the file's storages hold.
            state[native] = tensor.to(like.dtype, memory_format=torch.contiguous_format, copy=True)
    on_meta = any(tensor.is_meta for tensor in own.values())
    if on_meta:
        _initialise(network, state)
    network.load_state_dict(state, strict=False, assign=on_meta)  # names were compared before
    if match.layout.name == "plain" and len(state) < len(own):
        _silence_other_branches(network)
        logger.warning("%s: plain weights, loaded into the K×K branches; the others start at scale 0", checkpoint.path)


def _restore_buffers(network: nn.Module, model: nn.Module) -> None:
    """Take from `model` those buffers on the meta device that no file holds: its constructor computed them."""
    stored, known = network.state_dict().keys(), dict(model.named_buffers())
    for name, buffer in list(network.named_buffers()):
        if buffer.is_meta and name not in stored and name in known:
            owner, _, key = name.rpartition(".")
            network.get_submodule(owner)._buffers[key] = known[name]


def _adapted(tensor: Tensor, shape: torch.Size) -> Tensor:
    """A kernel that reads colour images as one that reads `shape[1]` channels; anything else as it is."""
    if tensor.dim() == len(shape) == 4 and tensor.shape == (shape[0], 3, *shape[2:]) != shape:
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
    """Give the network as many classes as the file has. Raises: CheckpointError if the file says another number."""
    key = f"{classifier(network)}.weight"
    theirs = next((theirs for theirs, native in match.names.items() if native == key), None)
    if theirs is None or not checkpoint.state_dict[theirs].dim():
        return
    rows = checkpoint.state_dict[theirs].shape[0]
    said = checkpoint.metadata.get("num_classes") if "model" in checkpoint.metadata else None
    if said is not None and said != rows:
        raise CheckpointError(
            f"{checkpoint.path}: says it tells {said} classes apart, but {theirs} has {rows} rows; save it anew"
        )
    if not rows:
        raise CheckpointError(
            f"{checkpoint.path}: {theirs} tells no classes apart; save a state_dict() with a classifier"
        )
    if rows != network.get_parameter(key).shape[0]:
        network.reset_classifier(rows)  # pyright: ignore[reportCallIssue]


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
    declare(network, class_names=None)
    network.to(weight.device, weight.dtype).train(network.training)


def _declare_images(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Let the network say of its images and classes what the file says; how many channels it reads it knows itself."""
    channels = input_size(network)[0]
    sizes = {key: (channels, *size[1:]) for key, size in checkpoint.images.items() if key.endswith("input_size")}
    declare(network, **(checkpoint.images | sizes))


def _misfit(name: str, checkpoint: Checkpoint, match: Match) -> str:
    differing = []
    if match.missing:
        differing.append(f"{len(match.missing)} names are missing ({some(match.missing)})")
    if match.unknown:
        differing.append(f"{len(match.unknown)} are unknown ({some(match.unknown)})")
    layout = f"{match.layout.name} layout, {match.structure}"
    return f"{checkpoint.path}: not a checkpoint of {name}: of the nearest ({layout}) {' and '.join(differing)}"


def _advice(checkpoint: Checkpoint, candidates: Candidates) -> str:
    model = checkpoint.model or _looks_like(checkpoint, candidates)
    return f"it is of {model}: pass that as the model" if model else "check the name of the network"


def _looks_like(checkpoint: Checkpoint, candidates: Candidates) -> str | None:
    """The first candidate that the file fits; likely ones (by the file's name) are tried first."""
    patterns = [layout.models for layout in marked(checkpoint)]
    likely = [(name, build) for name, build in candidates if any(fnmatch(name, pattern) for pattern in patterns)]
    stem = checkpoint.path.name.lower()
    likely.sort(key=lambda pair: -difflib.SequenceMatcher(None, pair[0], stem).ratio())
    for name, build in likely:
        with contextlib.suppress(CheckpointError), torch.device("meta"):
            fit(build(), checkpoint, name)
            return name
    return None


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape))
