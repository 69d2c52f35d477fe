"""Networks for the 32 pixels of CIFAR: the small tables of ACNet (arXiv 1908.03930) and DBB (arXiv 2103.13425).

    unit = relu(block(KxK))                                       Cifar-quick, VGG-16, ResNet-56
    residual = relu(block(3x3)(unit(x)) + shortcut(x))            ResNet-56
    residual = pre(pre(x)) + shortcut(x)                          WRN-16-8
    pre = block(3x3)(relu(bn(x)))

They are those of the authors' PyTorch code (DingXiaoH/ACNet), with a BatchNorm after every convolution of Cifar-quick
and VGG-16. Every KxK is a block, also the first; the 1x1 of a shortcut stays a convolution.
"""

# Without `from __future__ import annotations`: see `zoo.models.staged`.

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from zoo.models.flat_head import FlatHead
from zoo.models.repvgg import relu_unit
from zoo.models.staged import Common, StagedNetwork, register_twins, same_spec
from zoo.reparam.branches import build_block, chain


@dataclass(frozen=True)
class Layers:
    """Make a network's layers with one branch set.

    Attributes:
        block: The branch set of every KxK.
        init_gamma: Initial scale of the BatchNorms in a block: see `build_block`.
        dd: `device` and `dtype`.
    """

    block: str
    init_gamma: float | None
    dd: dict[str, Any]

    def conv(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Module:
        """A KxK and its BatchNorm, as a block."""
        spec = same_spec(in_channels, out_channels, kernel, stride)
        return build_block(spec, self.block, init_gamma=self.init_gamma, **self.dd)

    def unit(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Module:
        """relu(block(x))."""
        spec = same_spec(in_channels, out_channels, kernel, stride)
        return relu_unit(spec, self.block, init_gamma=self.init_gamma, **self.dd)

    def bare_conv(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Module:
        """A KxK without BatchNorm, unless it is a block: blocks always have theirs."""
        if self.block != "plain":
            return self.conv(in_channels, out_channels, kernel, stride)
        return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False, **self.dd)

    def norm(self, channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels, **self.dd)


class Residual(nn.Module):
    """act(branch(x) + shortcut(x))."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.act = branch, shortcut, act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.branch(x) + self.shortcut(x))


def cifar_quick(layers: Layers, common: Common) -> StagedNetwork:
    """Three 5x5 with a pooling of 3x3 / 2 after each: maximum, average, average; fc 64, fc."""
    return StagedNetwork(
        layers.unit(common.in_chans, 32, 5),
        [
            nn.Sequential(nn.MaxPool2d(3, 2), layers.unit(32, 32, 5)),
            nn.Sequential(nn.AvgPool2d(3, 2), layers.unit(32, 64, 5)),
        ],
        common,
        head=FlatHead(64, 3, [64], common),
        final=nn.AvgPool2d(3, 2),
        channels=[32, 32, 64],
        strides=[1, 2, 2],
    )


def vgg16(layers: Layers, common: Common) -> StagedNetwork:
    """VGG-16's thirteen 3x3 and five poolings, which leave one pixel; fc 512, fc."""
    stages, channels = [], common.in_chans
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        units = [layers.unit(width if position else channels, width) for position in range(depth)]
        stages.append(nn.Sequential(*([nn.MaxPool2d(2)] if stages else []), *units))
        channels = width
    stem, *rest = stages
    taps: dict[str, Any] = {"channels": [64, 128, 256, 512, 512], "strides": [1, 2, 2, 2, 2]}
    return StagedNetwork(stem, rest, common, head=FlatHead(512, 1, [512], common), final=nn.MaxPool2d(2), **taps)


def resnet56(layers: Layers, common: Common) -> StagedNetwork:
    """Three stages of nine residual blocks; where a stage changes the shape, its shortcut is a 1x1."""
    stages, channels = [], 16
    for width in (16, 32, 64):
        blocks = []
        for _ in range(9):
            stride = 1 if width == channels else 2
            shortcut: nn.Module = nn.Identity()
            if width != channels:
                pointwise = nn.Conv2d(channels, width, 1, stride, bias=False, **layers.dd)
                shortcut = chain(conv=pointwise, bn=layers.norm(width))
            pair = chain(conv1=layers.unit(channels, width, 3, stride), conv2=layers.conv(width, width, 3))
            blocks.append(Residual(pair, shortcut, nn.ReLU(inplace=True)))
            channels = width
        stages.append(nn.Sequential(*blocks))
    stem = layers.unit(common.in_chans, 16)
    return StagedNetwork(stem, stages, common, channels=[16, 16, 32, 64], strides=[1, 1, 2, 2])


def wrn_16_8(layers: Layers, common: Common) -> StagedNetwork:
    """Wide ResNet (arXiv 1605.07146) of depth 16 and width 8, without dropout, and without a ReLU before pooling.

    Its baseline has no BatchNorm after a convolution; ACB and DBB put theirs there, beside the one before the next.
    """

    def pre(in_channels: int, conv: nn.Module) -> nn.Module:
        return chain(bn=layers.norm(in_channels), act=nn.ReLU(inplace=True), conv=conv)

    # The authors' code passes the initial scale on to the first convolution, not to those that follow a ReLU.
    inner = Layers(layers.block, None, layers.dd)
    stages, channels = [], 16
    for width, stride in ((128, 1), (256, 2), (512, 2)):
        blocks = []
        for position in range(2):
            step = 1 if position else stride
            shortcut: nn.Module = nn.Identity()
            if not position:
                shortcut = pre(channels, nn.Conv2d(channels, width, 1, step, bias=False, **layers.dd))
            first = pre(channels, inner.bare_conv(channels, width, 3, step))
            second = pre(width, inner.bare_conv(width, width, 3))
            blocks.append(Residual(chain(conv1=first, conv2=second), shortcut, nn.Identity()))
            channels = width
        stages.append(nn.Sequential(*blocks))
    stem, final = layers.bare_conv(common.in_chans, 16, 3), layers.norm(512)
    return StagedNetwork(stem, stages, common, final=final, channels=[16, 128, 256, 512], strides=[1, 1, 2, 2])


def build(
    network: Callable[[Layers, Common], StagedNetwork], *, block: str, init_gamma: float | None = None, **timm: Any
) -> StagedNetwork:
    """Build a network in train structure.

    Args:
        network: One of the functions above; the taps of each are its stem and its stages.
        block: The branch set of every KxK.
        init_gamma: Initial scale of the BatchNorms in the blocks; ACNet's code has 0.333 on CIFAR. Default 1.
        timm: As in timm, see `zoo.models.staged.Common`.
    """
    common = Common(**timm)
    return network(Layers(block, init_gamma, common.dd), common)


# As in the authors' code: images of 32 pixels as they are, values from -1 to 1.
CFG: dict[str, Any] = {"input_size": (3, 32, 32), "crop_pct": 1.0, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def _register(
    name: str, network: Callable[..., StagedNetwork], *blocks: str, num_classes: int = 10, **cfg: Any
) -> None:
    builder = partial(build, network, num_classes=num_classes)
    register_twins(name, builder, ("plain", *blocks), num_classes=num_classes, **CFG, **cfg)


_register("cifar_quick", cifar_quick, "acb", pool_size=(3, 3))
for _classes in (10, 100):
    _layers = {"first_conv": "stem.0.conv", "pool_size": (1, 1)}
    _register(f"vgg16_cifar{_classes}", vgg16, "acb", "dbb", num_classes=_classes, **_layers)
_register("resnet56", resnet56, "acb", pool_size=(8, 8))
_register("wrn_16_8", wrn_16_8, "acb", first_conv="stem", pool_size=(8, 8))
