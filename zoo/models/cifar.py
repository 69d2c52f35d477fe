"""Networks for the 32 pixels of CIFAR: the small tables of ACNet (arXiv 1908.03930) and DBB (arXiv 2103.13425).

    unit = relu(block(KxK))                                       Cifar-quick, VGG-16, ResNet-56
    residual = relu(block(3x3)(unit(x)) + shortcut(x))            ResNet-56
    residual = pre(pre(x)) + shortcut(x)                          WRN-16-8
    pre = block(3x3)(relu(bn(x)))

They are those of the authors' PyTorch code (DingXiaoH/ACNet), with a BatchNorm after every convolution of Cifar-quick
and VGG-16. Every KxK is a block, also the first; the 1x1 of a shortcut stays a convolution.
"""

# Without `from __future__ import annotations`: see `zoo.models.staged`.

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from zoo.models.flat_head import FlatHead
from zoo.models.staged import Common, StagedNetwork
from zoo.registry import register_model
from zoo.reparam.branches import build_block
from zoo.reparam.spec import ConvSpec


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
        spec = ConvSpec(in_channels, out_channels, kernel, stride, kernel // 2)
        return build_block(spec, self.block, init_gamma=self.init_gamma, **self.dd)

    def unit(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Module:
        """relu(block(x))."""
        conv = self.conv(in_channels, out_channels, kernel, stride)
        return nn.Sequential(OrderedDict(conv=conv, act=nn.ReLU(inplace=True)))

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


@dataclass(frozen=True)
class Parts:
    """What is particular to a network; its taps are the stem and the stages, at strides 1, 2, 4, …

    Attributes:
        stem, stages, final, channels, reductions: As of `StagedNetwork`.
        side, hidden: Of its `FlatHead`; without `hidden` it has global pooling and a linear layer.
    """

    stem: nn.Module
    stages: list[nn.Sequential]
    channels: list[int]
    reductions: list[int]
    final: nn.Module | None = None
    side: int = 1
    hidden: Sequence[int] = ()


def cifar_quick(layers: Layers, in_chans: int) -> Parts:
    """Three 5x5 with a pooling of 3x3 / 2 after each: maximum, average, average; fc 64, fc."""
    return Parts(
        layers.unit(in_chans, 32, 5),
        [
            nn.Sequential(nn.MaxPool2d(3, 2), layers.unit(32, 32, 5)),
            nn.Sequential(nn.AvgPool2d(3, 2), layers.unit(32, 64, 5)),
        ],
        [32, 32, 64],
        [1, 2, 4],
        final=nn.AvgPool2d(3, 2),
        side=3,
        hidden=[64],
    )


def vgg16(layers: Layers, in_chans: int) -> Parts:
    """VGG-16's thirteen 3x3 and five poolings, which leave one pixel; fc 512, fc."""
    stages, channels = [], in_chans
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        units = [layers.unit(width if position else channels, width) for position in range(depth)]
        stages.append(nn.Sequential(*([nn.MaxPool2d(2)] if stages else []), *units))
        channels = width
    stem, *rest = stages
    return Parts(stem, rest, [64, 128, 256, 512, 512], [1, 2, 4, 8, 16], final=nn.MaxPool2d(2), hidden=[512])


def resnet56(layers: Layers, in_chans: int) -> Parts:
    """Three stages of nine residual blocks; where a stage changes the shape, its shortcut is a 1x1."""
    stages, channels = [], 16
    for width in (16, 32, 64):
        blocks = []
        for _ in range(9):
            stride = 1 if width == channels else 2
            shortcut: nn.Module = nn.Identity()
            if width != channels:
                pointwise = nn.Conv2d(channels, width, 1, stride, bias=False, **layers.dd)
                shortcut = nn.Sequential(OrderedDict(conv=pointwise, bn=layers.norm(width)))
            pair = OrderedDict(conv1=layers.unit(channels, width, 3, stride), conv2=layers.conv(width, width, 3))
            blocks.append(Residual(nn.Sequential(pair), shortcut, nn.ReLU(inplace=True)))
            channels = width
        stages.append(nn.Sequential(*blocks))
    return Parts(layers.unit(in_chans, 16), stages, [16, 16, 32, 64], [1, 1, 2, 4])


def wrn_16_8(layers: Layers, in_chans: int) -> Parts:
    """Wide ResNet (arXiv 1605.07146) of depth 16 and width 8, without dropout, and without a ReLU before pooling.

    Its baseline has no BatchNorm after a convolution; ACB and DBB put theirs there, beside the one before the next.
    """

    def pre(in_channels: int, conv: nn.Module) -> nn.Module:
        return nn.Sequential(OrderedDict(bn=layers.norm(in_channels), act=nn.ReLU(inplace=True), conv=conv))

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
            blocks.append(Residual(nn.Sequential(OrderedDict(conv1=first, conv2=second)), shortcut, nn.Identity()))
            channels = width
        stages.append(nn.Sequential(*blocks))
    return Parts(layers.bare_conv(in_chans, 16, 3), stages, [16, 128, 256, 512], [1, 1, 2, 4], layers.norm(512))


def build(
    network: Callable[[Layers, int], Parts],
    *,
    block: str,
    init_gamma: float | None = None,
    **timm: Any,
) -> StagedNetwork:
    """Build a network in train structure.

    Args:
        network: One of the functions above.
        block: The branch set of every KxK.
        init_gamma: Initial scale of the BatchNorms in the blocks; ACNet's code has 0.333 on CIFAR. Default 1.
        timm: As in timm, see `zoo.models.staged.Common`.
    """
    common = Common(**timm)
    parts = network(Layers(block, init_gamma, common.dd), common.in_chans)
    head = None
    if parts.hidden:
        pooled, asked = (parts.channels[-1], parts.side), (common.num_classes, common.global_pool, common.drop_rate)
        head = FlatHead(*pooled, parts.hidden, *asked, common.dd)
    taps: dict[str, Any] = {"channels": parts.channels, "reductions": parts.reductions, "final": parts.final}
    return StagedNetwork(parts.stem, parts.stages, common, head=head, **taps)


@dataclass(frozen=True)
class Row:
    """A network of the tables: what builds it, its first convolution, its last map's side, and the blocks it has."""

    network: Callable[[Layers, int], Parts]
    first_conv: str
    side: int
    blocks: tuple[str, ...] = ("plain", "acb")
    num_classes: int = 10


ROWS: dict[str, Row] = {
    "cifar_quick": Row(cifar_quick, "stem.conv", 3),
    "vgg16_cifar10": Row(vgg16, "stem.0.conv", 1, ("plain", "acb", "dbb")),
    "vgg16_cifar100": Row(vgg16, "stem.0.conv", 1, ("plain", "acb", "dbb"), num_classes=100),
    "resnet56": Row(resnet56, "stem.conv", 8),
    "wrn_16_8": Row(wrn_16_8, "stem", 8),
}
FAMILIES = {"plain": "plain", "acb": "ACNet", "dbb": "DBB"}
# As in the authors' code: images of 32 pixels as they are, values from -1 to 1.
CFG: dict[str, Any] = {"input_size": (3, 32, 32), "crop_pct": 1.0, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def _register(name: str, row: Row, block: str) -> None:
    def builder(block: str = block, num_classes: int = row.num_classes, **kwargs: Any) -> StagedNetwork:
        return build(row.network, block=block, num_classes=num_classes, **kwargs)

    family = FAMILIES[block]
    layers = {"first_conv": row.first_conv, "classifier": "head.fc", "pool_size": (row.side, row.side)}
    name = name if block == "plain" else f"{family.lower()}_{name}"
    register_model(builder, name=name, family=family, num_classes=row.num_classes, **layers, **CFG)


for _name, _row in ROWS.items():
    for _block in _row.blocks:
        _register(_name, _row, _block)
