"""ACNet and DBB: well-known networks with a block in the place of every K×K convolution, 1 < K < 7.

ACNet, arXiv 1908.03930 (block "acb"); Diverse Branch Block, arXiv 2103.13425 (block "dbb"). ResNet, MobileNet and
DenseNet are timm's own, and keep timm's module names in the deployed structure. Each is registered plain, too, to be
trained beside its converted twin.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
from torch import nn

from zoo.models.alexnet import AlexNet
from zoo.registry import register_model
from zoo.reparam.convert import convert


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
    return Base(build, "conv1", "fc")


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
FAMILIES = {"acb": "ACNet", "dbb": "DBB"}


def _builder(base: Base, default: str | None) -> Callable[..., nn.Module]:
    def build(*, block: str | None = default, **kwargs: Any) -> nn.Module:
        if kwargs.get("output_stride", 32) not in (8, 16, 32):  # timm: an assertion, or taken for another
            raise ValueError(f"output_stride={kwargs['output_stride']}: must be 8, 16 or 32")
        network = base.build(**kwargs)
        return network if block in (None, "plain") else convert(network, block)

    return build


for _name, _base in BASES.items():
    _cfg = {"first_conv": _base.first_conv, "classifier": _base.classifier, **dict(_base.cfg)}
    register_model(_builder(_base, None), name=_name, family="plain", **_cfg)
    for _block in _base.blocks:
        _family = FAMILIES[_block]
        register_model(_builder(_base, _block), name=f"{_family.lower()}_{_name}", family=_family, **_cfg)
