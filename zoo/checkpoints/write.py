"""Write weights: ours, or in the layout of others."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.atomic import atomic_write
from zoo.checkpoints.files import CheckpointError
from zoo.checkpoints.layouts import Layout
from zoo.checkpoints.recognise import classifier
from zoo.checkpoints.stock import stock_state_dict
from zoo.checkpoints.tables import layouts_of
from zoo.network import facts as about
from zoo.reparam.block import MultiBranchConv2d
from zoo.surgery.deploy import DeployReport, deploy

logger = logging.getLogger(__name__)

STOCK: dict[str, Callable[[], nn.Module]] = {
    **{name: getattr(torchvision.models, name) for name in ("resnet18", "resnet34", "resnet50", "resnet101")},
    # With the papers' ReLU: the function of timm's default, which has ReLU6, is another.
    "mobilenet_v1": lambda: timm.create_model("mobilenetv1_100", act_layer="relu"),
}
"""The networks of torchvision (timm's ResNets have the same names) and timm that deployed weights fit into."""


def save_weights(path: str | Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write a state dict, whole or not at all: safetensors if the path ends so, else with `torch.save`.

    Args:
        metadata: JSON-able facts for `read_checkpoint`; kept in a safetensors file only.

    Raises:
        OSError: The file cannot be written; names it.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    with atomic_write(path) as temporary:
        if path.suffix == ".safetensors":
            save_file(tensors, temporary, {"format": "pt", **({"zoo": json.dumps(metadata)} if metadata else {})})
        else:
            torch.save(tensors, temporary)


def save_deployed(
    model: nn.Module, path: str | Path, name: str, report: DeployReport | None = None, **facts: Any
) -> None:
    """Write a deployed network, with its name, structure, images, classes, and the report of its deployment.

    `zoo.create_model(name, checkpoint=path)` reads it.

    Args:
        name: The registered name.
        facts: Further JSON-able metadata: `model_kwargs` (arguments it was built with), top1, …
    """
    num_classes = getattr(model, "num_classes", None)
    metadata = {"model": name, "structure": "deployed", "num_classes": num_classes, **about(model, test=True), **facts}
    if report is not None:
        metadata["report"] = report.to_dict()
    save_weights(path, model.state_dict(), metadata)


def in_layout(network: nn.Module, train: nn.Module, model: str, to: str) -> dict[str, Tensor]:
    """The state dict of a network, of either structure, with the names of another layout.

    Args:
        network: The weights.
        train: The same network in training structure; may be on the meta device.
        model: Its registered name.
        to: "official", "timm", "stock" or "zoo". "stock" takes deployed weights to torchvision's and timm's plain
            network: what a convolution adds goes into the shift of the BatchNorm after it.

    Raises:
        CheckpointError: There is no such layout of that network, or it has no place for some weights.
    """
    state = network.state_dict()
    if to == "zoo":
        return state
    if to == "stock":
        return with_norms(state, _stock(model), model)
    layout = _layout(train, model, to)
    deployed = state.keys() != train.state_dict().keys()
    if deployed and layout.keeps_norms:
        state = with_norms(state, deploy(train.eval(), verify=False, fold_regions=False), model)
    blocks = [name for name, module in train.named_modules() if isinstance(module, MultiBranchConv2d)]
    names = layout.names(state, blocks if deployed else ())
    assert names is not None
    if lost := state.keys() - set(names.values()):
        logger.warning("%s: the %s layout has no place for its classifier (%s)", model, to, ", ".join(sorted(lost)))
    return {layout.prefix + theirs: state[native] for theirs, native in names.items()}


def _layout(train: nn.Module, model: str, to: str) -> Layout:
    """The layout of that maker which has a name for everything, unless for the classifier."""
    keys, last = list(train.state_dict()), f"{classifier(train)}."
    for layout in layouts_of(model):
        names = layout.names(keys) if layout.name == to else None
        if names and all(key.startswith(last) for key in set(keys) - set(names.values())):
            return layout
    raise CheckpointError(f"{model}: no {to!r} layout of it is known; {_known(model)}")


def _stock(model: str) -> nn.Module:
    if _base(model) not in STOCK:
        raise CheckpointError(f"{model}: torchvision and timm have no plain network for it; {_known(model)}")
    with torch.device("meta"):
        return STOCK[_base(model)]()


def _base(model: str) -> str:
    return model.removeprefix("acnet_").removeprefix("dbb_").removeprefix("orepa_")


def _known(model: str) -> str:
    kinds = {layout.name for layout in layouts_of(model) if layout.name != "plain"} | {"zoo"}
    return f"known: {', '.join(sorted(kinds | ({'stock'} if _base(model) in STOCK else set())))}"


def with_norms(state: Mapping[str, Tensor], network: nn.Module, model: str = "") -> dict[str, Tensor]:
    """Weights of folded convolutions as the state dict of `network`, which has BatchNorms after them.

    Such a BatchNorm only adds (`stock_state_dict`).

    Raises:
        CheckpointError: A bias has no BatchNorm to go to, or the names differ otherwise.
    """
    try:
        return stock_state_dict(state, network)
    except ValueError as error:
        raise CheckpointError(f"{model}: {error}; deployed weights are needed") from error
