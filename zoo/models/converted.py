"""ACNet, DBB and OREPA: well-known networks with blocks in the place of convolutions.

ACNet, arXiv 1908.03930 (block "acb") and Diverse Branch Block, arXiv 2103.13425 (block "dbb") replace every K×K
convolution with 1 < K < 7; OREPA, arXiv 2204.00826 (block "orepa") replaces all, 1×1 and stem too. ResNet, MobileNet
and DenseNet are timm's own, and keep timm's module names in the deployed structure, but start as in the papers' code.
Each is registered plain, too, to be trained beside its converted twin.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
from timm.models.resnet import BasicBlock
from torch import nn

from zoo.models.alexnet import AlexNet
from zoo.models.staged import register_twins
from zoo.surgery.convert import convert
from zoo.surgery.sites import Rule


def orepas_rule(network: nn.Module) -> Rule:
    """Select every convolution; but the 1×1 of ResNet-18's and 34's shortcuts stays plain, as in the official code."""
    basic = any(isinstance(module, BasicBlock) for module in network.modules())
    return lambda name, spec: not (basic and ".downsample." in name)


def build(plain: Callable[..., nn.Module], *, block: str | None, **kwargs: Any) -> nn.Module:
    """Build a network and put blocks into it.

    Args:
        plain: Keyword arguments as in timm → the plain network.
        block: The branch set, or "plain".
    """
    if kwargs.get("output_stride", 32) not in (8, 16, 32):  # timm: an assertion, or taken for another
        raise ValueError(f"output_stride={kwargs['output_stride']}: must be 8, 16 or 32")
    network = plain(**kwargs)
    _start_as_in_pytorch(network)
    if block in (None, "plain"):
        return network
    return convert(network, block, orepas_rule(network) if block == "orepa" else None)


def _start_as_in_pytorch(network: nn.Module) -> None:
    """Draw convolutions and linear layers anew as PyTorch does by default, which the papers' code leaves as it is.

    timm has starts of its own, several times as wide; the blocks start as PyTorch's layers, too.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()


def _register(name: str, plain: Callable[..., nn.Module], *blocks: str, **cfg: Any) -> None:
    register_twins(name, partial(build, plain), ("plain", *blocks), **cfg)


# The blocks are those of the papers' tables, and of OREPA's Table 4.
for _name in ("resnet18", "resnet34", "resnet50", "resnet101"):
    # The papers start every BatchNorm at γ = 1; timm would start the last one of a residual branch at 0.
    _resnet = partial(timm.create_model, _name, zero_init_last=False)
    _register(_name, _resnet, "acb", "dbb", "orepa", first_conv="conv1", classifier="fc")
# ReLU as in the papers, where timm has ReLU6.
_mobilenet = partial(timm.create_model, "mobilenetv1_100", act_layer="relu")
_register("mobilenet_v1", _mobilenet, "acb", "dbb", first_conv="conv_stem", classifier="classifier")
_densenet = partial(timm.create_model, "densenet121")
_register("densenet121", _densenet, "acb", first_conv="features.conv0", classifier="classifier")
_register("alexnet", AlexNet, "acb", "dbb", pool_size=(6, 6))
