"""RepGhost: A Hardware-Efficient Ghost Module via Re-parameterization (arXiv 2211.06088).

    module     = relu(dw3x3-bn(y) + bn(y)),  y = relu(bn(1x1(x)))      figure 4e; the fusion bn(y) is a branch
    bottleneck = shortcut(x) + module2(se(bn(dw(module1(x)))))         dw only where strided; module2 has no relu
    shortcut   = x,  or bn(1x1(bn(dw(x)))) where the shape changes

No concatenation: a module has as many channels inside as it puts out. Deployed, it is 1x1, ReLU, dw3x3, ReLU.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from timm.layers import SelectAdaptivePool2d, SqueezeExcite, make_divisible
from torch import Tensor, nn

from zoo.models.staged import Common, StagedNetwork, conv_bn, dilated, register, same_spec
from zoo.reparam.branches import build_block, chain


@dataclass(frozen=True)
class Row:
    """One bottleneck of the paper's Table 1, at width 1. `kernel` is that of the strided and of the shortcut's dw."""

    kernel: int
    middle: int
    out: int
    se: bool
    stride: int = 1


STEM = Row(3, 8, 16, False)
STAGES: tuple[tuple[Row, ...], ...] = (
    (Row(3, 24, 24, False, 2), Row(3, 36, 24, False)),
    (Row(5, 36, 40, True, 2), Row(5, 60, 40, True)),
    (
        Row(3, 120, 80, False, 2),
        Row(3, 100, 80, False),
        Row(3, 120, 80, False),
        Row(3, 120, 80, False),
        Row(3, 240, 112, True),
        Row(3, 336, 112, True),
    ),
    (
        Row(5, 336, 160, True, 2),
        Row(5, 480, 160, False),
        Row(5, 480, 160, True),
        Row(5, 480, 160, False),
        Row(5, 480, 160, True),
    ),
)


@dataclass(frozen=True)
class Variant:
    """Width multiplier, and the paper's ablations: the block of the cheap operation, the bottleneck's shortcut."""

    width: float
    block: str = "repghost"
    shortcut: bool = True

    def channels(self, at_width_1: int) -> int:
        return make_divisible(at_width_1 * self.width, 4)


class RepGhostModule(nn.Module):
    """relu(Σ branches(y)), y = relu(bn(1x1(x))); without both ReLUs if not `relu`."""

    def __init__(
        self, in_channels: int, out_channels: int, block: str, dilation: int, relu: bool, dd: dict[str, Any]
    ) -> None:
        super().__init__()
        self.primary = conv_bn(same_spec(in_channels, out_channels, 1), dd, relu=relu)
        depthwise = same_spec(out_channels, out_channels, 3, dilation=dilation, groups=out_channels)
        self.cheap = build_block(depthwise, block, **dd)
        self.act = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.cheap(self.primary(x)))


class RepGhostBottleneck(nn.Module):
    """shortcut(x) + ghost2(se(downsample(ghost1(x)))), nothing after the sum."""

    def __init__(
        self, in_channels: int, row: Row, variant: Variant, block: str, stride: int, dilation: int, dd: dict[str, Any]
    ) -> None:
        super().__init__()
        middle, out = variant.channels(row.middle), variant.channels(row.out)
        self.ghost1 = RepGhostModule(in_channels, middle, block, dilation, True, dd)
        self.downsample = nn.Identity()
        if row.stride > 1:
            self.downsample = conv_bn(same_spec(middle, middle, row.kernel, stride, dilation, middle), dd)
        self.se = nn.Identity()
        if row.se:
            reduced = make_divisible(middle * 0.25, 4)
            self.se = SqueezeExcite(middle, rd_channels=reduced, gate_layer="hard_sigmoid", **dd)
        self.ghost2 = RepGhostModule(middle, out, block, dilation, False, dd)
        self.shortcut = _shortcut(in_channels, out, row, variant, stride, dilation, dd)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ghost2(self.se(self.downsample(self.ghost1(x))))
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        return y


def _shortcut(
    in_channels: int, out: int, row: Row, variant: Variant, stride: int, dilation: int, dd: dict[str, Any]
) -> nn.Module | None:
    """Build what is added to a bottleneck's output; the ablation leaves out only the bare identity."""
    if in_channels == out and row.stride == 1:
        return nn.Identity() if variant.shortcut else None
    depthwise = conv_bn(same_spec(in_channels, in_channels, row.kernel, stride, dilation, in_channels), dd)
    return chain(depthwise=depthwise, pointwise=conv_bn(same_spec(in_channels, out, 1), dd))


class RepGhostHead(nn.Module):
    """fc(dropout(relu(1x1(pool(x))))), in the manner of timm's `ClassifierHead`. The 1x1 has a bias and no BN."""

    def __init__(self, in_channels: int, hidden: int, common: Common) -> None:
        super().__init__()
        self.num_features = hidden
        self.conv = nn.Conv2d(in_channels, hidden, 1, **common.dd)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(common.drop_rate)
        self.reset(common.num_classes, common.global_pool, **common.dd)

    def reset(self, num_classes: int, pool_type: str | None = None, **dd: Any) -> None:
        """A fresh classifier (0: none), and other pooling if given ("": none, the 1x1 then runs on the map)."""
        if pool_type is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=pool_type)
            if self.global_pool.feat_mult() != 1:
                raise ValueError(f"global_pool={pool_type!r} changes the number of channels before the head's 1x1")
            self.flatten = nn.Flatten(1) if pool_type else nn.Identity()
        self.fc = nn.Linear(self.num_features, num_classes, **dd) if num_classes else nn.Identity()
        self.train(self.training)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(self.flatten(self.act(self.conv(self.global_pool(x)))))
        return x if pre_logits else self.fc(x)


class RepGhostNet(StagedNetwork):
    """RepGhostNet in training structure. Taps are the maps at strides 2 to 32, each the last of its stride.

    Args:
        variant: Width and ablation.
        drop_rate, output_stride, timm: As in timm, see `zoo.models.staged.Common`.
        block: The branch set of every cheap 3x3 depthwise operation, if not the variant's.
    """

    def __init__(
        self,
        variant: Variant,
        *,
        output_stride: int = 32,
        block: str | None = None,
        drop_rate: float = 0.2,
        **timm: Any,
    ) -> None:
        common = Common(drop_rate=drop_rate, **timm)
        dd, block = common.dd, block or variant.block
        width = variant.channels(16)
        stem = conv_bn(same_spec(common.in_chans, width, 3, 2), dd, relu=True)
        stem.add_module("block", RepGhostBottleneck(width, STEM, variant, block, 1, 1, dd))
        previous = variant.channels(STEM.out)
        channels, stages = [previous], []
        plan = dilated([2, 2, 2, 2, 2], (1, *map(len, STAGES)), output_stride)[1:]
        for rows, geometries in zip(STAGES, plan, strict=True):
            blocks = []
            for row, geometry in zip(rows, geometries, strict=True):
                blocks.append(RepGhostBottleneck(previous, row, variant, block, *geometry, dd))
                previous = variant.channels(row.out)
            stages.append(nn.Sequential(*blocks))
            channels.append(previous)
        num_features = variant.channels(960)
        super().__init__(
            stem,
            stages,
            common,
            head=RepGhostHead(num_features, 1280, common),
            final=conv_bn(same_spec(previous, num_features, 1), dd, relu=True),
            channels=channels,
            strides=[2, *(geometries[0][0] for geometries in plan)],
            num_features=num_features,
        )


VARIANTS: dict[str, Variant] = {
    **{f"repghostnet_{width}x": Variant(width) for width in (0.5, 0.58, 0.8, 1.0, 1.11, 1.3, 1.5, 2.0)},
    "repghostnet_repid_0.5x": Variant(0.5, block="kxk+bare_identity"),
    "repghostnet_norep_0.5x": Variant(0.5, block="plain"),
    "repghostnet_wo_0.5x": Variant(0.5, shortcut=False),
}


for _name, _variant in VARIANTS.items():
    register(_name, partial(RepGhostNet, _variant), "RepGhostNet", interpolation="bicubic")
