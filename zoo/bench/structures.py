"""The structures a network is timed in: what a user has today, train, train with BatchNorms folded, deployed.

peer      timm's own network after its own conversion, or the official one's: what a user gets without us
train     every branch and every BatchNorm
folded    every branch, but each convolution with its BatchNorm folded in, as ONNX Runtime does to an exported
          train structure: what folding alone gives, before any re-parameterization
deployed  one convolution per block, all BatchNorms folded
"""

import copy
import re
from collections import OrderedDict
from typing import get_args

import timm
import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from zoo.bench.config import Structure
from zoo.checkpoints import Checkpoint
from zoo.export.compile import deployed_network
from zoo.network import runs_on
from zoo.registry import create_model
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.fold import NORM_LAYERS, fold
from zoo.reparam.layers import BatchNormPad2d
from zoo.surgery.deploy import deploy
from zoo.surgery.fold_regions import fold_regions
from zoo.surgery.rewrite import conv_for

STRUCTURES: tuple[str, ...] = get_args(Structure)

PEERS = {
    r"(repvgg_[ab]\d(?:g4)?|repvgg_d2se|mobileone_s\d|resnet\d+|densenet121)": r"timm/\1",
    r"timm/.*": r"\g<0>",
}
"""Registry name (whole, as a pattern) → the network a user has today, in timm."""


def peer_name(model: str) -> str | None:
    """timm's network of the same architecture; None where timm has none (ACNet, DBB: see `build_structures`)."""
    if match := re.fullmatch(r"repghostnet_(\d+\.\d+)x", model):
        return f"timm/repghostnet_{round(100 * float(match[1])):03d}"
    for pattern, name in PEERS.items():
        if match := re.fullmatch(pattern, model):
            return match.expand(name)
    return None


def build_structures(
    model: str, structures: list[str], example: Tensor, *, checkpoint: str | Checkpoint | None = None
) -> dict[str, nn.Module]:
    """A registered or foreign network in some of `STRUCTURES`, in eval mode, weights shared by none.

    Without a checkpoint the weights are random and the BatchNorm statistics those of one random batch, so that no
    map vanishes or overflows on its way through the network.

    Args:
        model: Any name that `zoo.create_model` takes.
        structures: Names in `STRUCTURES`. A foreign network without branches has no `train` structure of its own:
            its `train`, `folded` and `deployed` differ by folded BatchNorms only.
        example: (N, C, H, W), what the network will be timed on.
        checkpoint: Weights to load into all but `peer`.

    Raises:
        ValueError: Unknown model or structure.
    """
    for structure in structures:
        if structure not in STRUCTURES:
            raise ValueError(f"unknown structure {structure!r}: known are {', '.join(STRUCTURES)}")
    torch.manual_seed(0)
    train = create_model(model, checkpoint=checkpoint).eval()
    if checkpoint is None:
        settle_norms(train, example)
    makers = {
        "peer": lambda: peer(model, train, example),
        "train": lambda: train,
        "folded": lambda: fold_branches(train, example),
        "deployed": lambda: deployed_network(train, example),
    }
    return {structure: makers[structure]().to(example.device) for structure in structures}


def peer(model: str, train: nn.Module, example: Tensor) -> nn.Module:
    """Make the deployed network that a user has today without this package.

    timm's own after `reparameterize_model` where timm has it. Else what the official converter makes of `train`:
    DBB's folds every convolution's BatchNorm, ACNet's only those inside its blocks.
    """
    name = peer_name(model)
    if name is None:
        return deploy(train, example, fold_regions=not model.startswith("acnet"), verify=False)
    network = timm.create_model(name.removeprefix("timm/")).eval()
    settle_norms(network, example)
    return reparameterize_model(network)


def settle_norms(model: nn.Module, example: Tensor) -> None:
    """Set every BatchNorm's running statistics to those of one random batch, in place; of small images if it may."""
    side = min(64, example.shape[-1])
    images = torch.randn(4, example.shape[1], side, side, device=example.device)
    if not runs_on(model, images):  # some take their own size only
        images = torch.randn(4, *example.shape[1:], device=example.device)
    update_bn([images], model.eval())


@torch.no_grad()
def fold_branches(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a network whose blocks keep their branches and whose convolutions have taken in their BatchNorms.

    A BatchNorm that follows no convolution (identity and average-pooling branches) stays, as it does in ONNX Runtime.
    """
    folded = copy.deepcopy(model)
    for module in folded.modules():
        if isinstance(module, MultiBranchConv2d):
            for name, branch in module.branches.items():
                module.branches[name] = fold_chain(branch)
    return fold_regions(folded, example)[0]


def fold_chain(branch: nn.Module) -> nn.Module:
    """A branch with each convolution and the BatchNorm right behind it as one convolution."""
    if not isinstance(branch, nn.Sequential):
        return branch
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in branch.named_children():
        previous = next(reversed(layers), "")
        conv = layers.get(previous)
        if isinstance(conv, nn.Conv2d) and isinstance(layer, (*NORM_LAYERS, BatchNormPad2d)):
            kernel = fold(nn.Sequential(conv, layer), conv.in_channels, conv.weight.device)
            layers[previous] = conv_for(kernel, conv.weight.dtype)
        else:
            layers[name] = layer
    return nn.Sequential(layers)
