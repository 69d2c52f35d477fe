"""The first convolutions and the classifier, as timm's `pretrained_cfg` declares them."""

import itertools
from collections.abc import Mapping

from torch import Tensor, nn

from zoo.reparam.block import MultiBranchConv2d


def declare_layers(model: nn.Module) -> None:
    """Bring a network's `first_conv` and `classifier` up to date.

    A block in that place is named by the convolutions that read for it:

    `stem.conv` becomes `stem.conv.branches.kxk.conv`, `stem.conv.branches.1x1.conv`, … where it is a block, and these
    become `stem.conv` again where it is one no more. A layer that a region around it took up is named by that.
    """
    cfg = getattr(model, "pretrained_cfg", None)
    modules = dict(model.named_modules())
    for key in ("first_conv", "classifier"):
        if isinstance(cfg, dict) and cfg.get(key):
            declared = [cfg[key]] if isinstance(cfg[key], str) else cfg[key]
            layers = dict.fromkeys(_outer(name.partition(".branches.")[0], modules) for name in declared)
            names = tuple(name for layer in layers for name in _readers(layer, modules.get(layer)))
            cfg[key] = names[0] if len(names) == 1 else names


def _outer(name: str, modules: Mapping[str, nn.Module]) -> str:
    """The name, or where there is no such module that of the layer around it."""
    outer = name
    while outer and outer not in modules:
        outer = outer.rpartition(".")[0]
    return outer if isinstance(modules[outer], nn.Conv2d | nn.Linear) else name


def _readers(name: str, layer: nn.Module | None) -> list[str]:
    """The first convolution of every branch; a layer that is no block reads by itself."""
    return _first_convs(f"{name}.branches", layer.branches) if isinstance(layer, MultiBranchConv2d) else [name]


def _first_convs(name: str, layer: nn.Module) -> list[str]:
    """Of a chain, those of its first layer that has any; of a sum (`Sum2d`, a block's branches), all of them.

    What has a kernel for a weight counts: a convolution, or what computes one's kernel (`zoo.reparam.orepa`).
    """
    weight = getattr(layer, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim == 4:
        return [name]
    found = [_first_convs(f"{name}.{inner}", module) for inner, module in layer.named_children()]
    found = [convs for convs in found if convs]
    return [*itertools.chain(*(found if isinstance(layer, nn.ModuleDict) else found[:1]))]
