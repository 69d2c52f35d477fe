"""Which convolutions read the image, as timm's `pretrained_cfg["first_conv"]` declares them."""

from __future__ import annotations

from torch import nn

from zoo.reparam.block import MultiBranchConv2d


def declare_first_conv(model: nn.Module) -> None:
    """Bring a network's `first_conv` up to date: a block in that place is named by the convolutions that read for it.

    `stem.conv` becomes `stem.conv.branches.kxk.conv`, `stem.conv.branches.1x1.conv`, … where it is a block, and these
    become `stem.conv` again where it is one no more.
    """
    cfg = getattr(model, "pretrained_cfg", None)
    if not isinstance(cfg, dict) or not cfg.get("first_conv"):
        return
    first = [cfg["first_conv"]] if isinstance(cfg["first_conv"], str) else cfg["first_conv"]
    layers = dict.fromkeys(name.partition(".branches.")[0] for name in first)
    modules = dict(model.named_modules())
    names = tuple(name for layer in layers for name in _readers(layer, modules.get(layer)))
    cfg["first_conv"] = names[0] if len(names) == 1 else names


def _readers(name: str, layer: nn.Module | None) -> list[str]:
    """The first convolution of every branch; a layer that is no block reads by itself."""
    if not isinstance(layer, MultiBranchConv2d):
        return [name]
    firsts = []
    for branch_name, branch in layer.branches.items():
        convs = (inner for inner, module in branch.named_modules() if isinstance(module, nn.Conv2d))
        firsts += [f"{name}.branches.{branch_name}.{conv}" for conv in [*convs][:1]]
    return firsts
