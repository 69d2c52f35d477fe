"""ACNet, DBB and OREPA: well-known networks with blocks in the place of convolutions.

ACNet, arXiv 1908.03930 (block "acb") and Diverse Branch Block, arXiv 2103.13425 (block "dbb") replace every K×K
convolution with 1 < K < 7; OREPA, arXiv 2204.00826 (block "orepa") replaces all, 1×1 and stem too. ResNet, MobileNet
and DenseNet are timm's own, and keep timm's module names in the deployed structure, but start as in the papers' code.
Each is registered plain, too, to be trained beside its converted twin.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
from timm.models.resnet import BasicBlock
from torch import nn

from zoo.models.alexnet import AlexNet
from zoo.registry import register_model
from zoo.surgery.convert import convert
from zoo.surgery.sites import Rule


@dataclass(frozen=True)
class Base:
    """A network to put blocks into.

    Attributes:
        build: Keyword arguments as in timm → the plain network.
        first_conv, classifier: Names of its layers.
        blocks: The sets it is registered with, by the papers and by OREPA's Table 4.
        cfg: Further entries of timm's `pretrained_cfg`.
    """

    build: Callable[..., nn.Module]
    first_conv: str
    classifier: str
    blocks: tuple[str, ...] = ("acb", "dbb")
    cfg: tuple[tuple[str, Any], ...] = ()


def _resnet(name: str) -> Base:
    # The papers start every BatchNorm at γ = 1; timm would start the last one of a residual branch at 0.
    build = functools.partial(timm.create_model, name, zero_init_last=False)
    return Base(build, "conv1", "fc", ("acb", "dbb", "orepa"))


BASES: dict[str, Base] = {
    **{name: _resnet(name) for name in ("resnet18", "resnet34", "resnet50", "resnet101")},
    # ReLU as in the papers, where timm has ReLU6.
    "mobilenet_v1": Base(
        functools.partial(timm.create_model, "mobilenetv1_100", act_layer="relu"),
        "conv_stem",
        "classifier",
    ),
    "densenet121": Base(functools.partial(timm.create_model, "densenet121"), "features.conv0", "classifier", ("acb",)),
    "alexnet": Base(AlexNet, "stem.conv", "head.fc", cfg=(("pool_size", (6, 6)),)),
}
FAMILIES = {"acb": "ACNet", "dbb": "DBB", "orepa": "OREPA"}


def orepas_rule(network: nn.Module) -> Rule:
    """Select every convolution; but the 1×1 of ResNet-18's and 34's shortcuts stays plain, as in the official code."""
    basic = any(isinstance(module, BasicBlock) for module in network.modules())
    return lambda name, spec: not (basic and ".downsample." in name)


def _builder(base: Base, default: str | None) -> Callable[..., nn.Module]:
    def build(*, block: str | None = default, **kwargs: Any) -> nn.Module:
        if kwargs.get("output_stride", 32) not in (8, 16, 32):  # timm: an assertion, or taken for another
            raise ValueError(f"output_stride={kwargs['output_stride']}: must be 8, 16 or 32")
        network = base.build(**kwargs)
        _start_as_in_pytorch(network)
        if block in (None, "plain"):
            return network
        return convert(network, block, orepas_rule(network) if block == "orepa" else None)

    return build


def _start_as_in_pytorch(network: nn.Module) -> None:
    """Draw convolutions and linear layers anew as PyTorch does by default, which the papers' code leaves as it is.

    timm has starts of its own, several times as wide; the blocks start as PyTorch's layers, too.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()


for _name, _base in BASES.items():
    _cfg = {"first_conv": _base.first_conv, "classifier": _base.classifier, **dict(_base.cfg)}
    register_model(_builder(_base, None), name=_name, family="plain", **_cfg)
    for _block in _base.blocks:
        _family = FAMILIES[_block]
        register_model(_builder(_base, _block), name=f"{_family.lower()}_{_name}", family=_family, **_cfg)
