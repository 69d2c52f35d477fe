"""YOLOv7's neck (arXiv 2207.02696), and backbone and neck as one network of three feature maps.

    sppcspc = conv1x1(cat(conv3x3(conv1x1(pyramid(y))), conv1x1(x)))       y = conv1x1(conv3x3(conv1x1(x)))
    pyramid = cat(x, max5x5(x), max9x9(x), max13x13(x))

    p5 = sppcspc(c5)       p4 = elan(cat(conv1x1(c4), up(conv1x1(p5))))    p3 = elan(cat(conv1x1(c3), up(conv1x1(p4))))
    n3 = p3                n4 = elan(cat(transition(n3), p4))              n5 = elan(cat(transition(n4), p5))
    maps = RepConv(n3), RepConv(n4), RepConv(n5)                           strides 8, 16, 32

Layers 51 to 104 of the official cfg/training/yolov7.yaml, and 59 to 120 of yolov7x.yaml. What follows there, one 1x1
to boxes and classes for each map, is left to a detector, as are label assignment (simOTA) and the detection loss.
"""

# Without `from __future__ import annotations`: see `zoo.models.yolov7`.

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models._manipulate import checkpoint_seq
from torch import Tensor, nn

from zoo.models.staged import Common, register
from zoo.models.yolov7 import ELAN, CompoundScale, RepConv, Transition, YOLOv7Backbone, conv, set_official_norms
from zoo.reparam.branches import chain


class PoolPyramid(nn.Module):
    """cat(x, max5x5(x), max9x9(x), max13x13(x)).

    Three 5x5 poolings in a row: a maximum over 9x9 is one of 5x5 maxima over 5x5. So the official SPP and its faster
    form SPPF are one function.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        by5 = self.pool(x)
        by9 = self.pool(by5)
        return torch.cat((x, by5, by9, self.pool(by9)), 1)


class SPP(nn.Module):
    """conv1x1(pyramid(conv1x1(x))), the official SPP and SPPF; half of the input channels are pooled."""

    def __init__(self, c1: int, c2: int, **dd: Any) -> None:
        super().__init__()
        self.reduce = conv(c1, c1 // 2, 1, **dd)
        self.pyramid = PoolPyramid()
        self.join = conv(4 * (c1 // 2), c2, 1, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.pyramid(self.reduce(x)))


class MeanPyramid(nn.Module):
    """cat(x, mean5x5(x), mean9x9(x), mean13x13(x)), the zeros of the border counted."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *(F.avg_pool2d(x, size, 1, size // 2) for size in (5, 9, 13))], 1)


class SPP3(SPP):
    """SPP with average pooling, for networks of your own: none of the official files has it."""

    def __init__(self, c1: int, c2: int, **dd: Any) -> None:
        super().__init__(c1, c2, **dd)
        self.pyramid = MeanPyramid()


class SPPCSPC(nn.Module):
    """conv1x1(cat(after(pyramid(before(x))), conv1x1(x))): a pooling pyramid on one of two paths."""

    def __init__(self, c1: int, c2: int, **dd: Any) -> None:
        super().__init__()
        self.before = chain(conv1=conv(c1, c2, 1, **dd), conv2=conv(c2, c2, 3, **dd), conv3=conv(c2, c2, 1, **dd))
        self.pyramid = PoolPyramid()
        self.after = chain(conv1=conv(4 * c2, c2, 1, **dd), conv2=conv(c2, c2, 3, **dd))
        self.shortcut = conv(c1, c2, 1, **dd)
        self.join = conv(2 * c2, c2, 1, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat((self.after(self.pyramid(self.before(x))), self.shortcut(x)), 1))


class YOLOv7Neck(nn.Module):
    """Three maps of a backbone, of strides 8, 16 and 32, become three maps that know of each other.

    Args:
        in_channels: Of the backbone's maps, the largest map first.
        block: The branch set of the three last convolutions. They widen, so a RepConv has no identity there.
        stacked: Build the ELANs as the backbone's (ELAN-W, of YOLOv7-X) instead of ELAN-H.
        depth_multiplier, width_multiplier: See `CompoundScale`.

    Shape:
        (N, in_channels[i], H / s, W / s) → (N, channels[i], H / s, W / s), s = 8, 16, 32; odd sizes rounded up.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        block: str = "repconv",
        stacked: bool = False,
        depth_multiplier: float = 1.0,
        width_multiplier: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        scale = CompoundScale(depth_multiplier, width_multiplier)

        def elan(c1: int, hidden: int, c2: int) -> ELAN:
            if stacked:
                return ELAN(c1, hidden, c2, width=hidden, steps=scale.steps(2), convs=2, **dd)
            return ELAN(c1, hidden, c2, width=hidden // 2, steps=scale.steps(4), convs=1, **dd)

        c3, c4, c5 = in_channels
        w3, w4, w5 = (scale.channels(width) for width in (128, 256, 512))
        self.channels = [2 * w3, 2 * w4, 2 * w5]
        self.pyramid = SPPCSPC(c5, w5, **dd)
        self.reduce5, self.lateral4 = conv(w5, w4, 1, **dd), conv(c4, w4, 1, **dd)
        self.top_down4 = elan(2 * w4, 256, w4)
        self.reduce4, self.lateral3 = conv(w4, w3, 1, **dd), conv(c3, w3, 1, **dd)
        self.top_down3 = elan(2 * w3, 128, w3)
        self.down4 = Transition(w3, w3, **dd)
        self.bottom_up4 = elan(2 * w3 + w4, 256, w4)
        self.down5 = Transition(w4, w4, **dd)
        self.bottom_up5 = elan(2 * w4 + w5, 512, w5)
        self.heads = nn.ModuleList(RepConv(w, 2 * w, block=block, **dd) for w in (w3, w4, w5))
        set_official_norms(self)

    def keep(self, wanted: list[int]) -> None:
        """Drop what leads to none of the wanted maps; in the place of one before the last there is its input then."""
        last = max(wanted)
        if last < 2:
            self.down5, self.bottom_up5 = nn.Identity(), nn.Identity()
        if last < 1:
            self.down4, self.bottom_up4 = nn.Identity(), nn.Identity()
        heads = list(self.heads)[: last + 1]
        self.heads = nn.ModuleList(head if index in wanted else nn.Identity() for index, head in enumerate(heads))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        c3, c4, c5 = maps
        p5 = self.pyramid(c5)
        p4 = self.top_down4(torch.cat((self.lateral4(c4), upsampled(self.reduce5(p5), c4)), 1))
        p3 = self.top_down3(torch.cat((self.lateral3(c3), upsampled(self.reduce4(p4), c3)), 1))
        outputs = [p3]
        if len(self.heads) > 1:
            outputs.append(self.bottom_up4(torch.cat((self.down4(p3), p4), 1)))
        if len(self.heads) > 2:
            outputs.append(self.bottom_up5(torch.cat((self.down5(outputs[1]), p5), 1)))
        return [head(outputs[index]) for index, head in enumerate(self.heads)]


def upsampled(x: Tensor, like: Tensor) -> Tensor:
    """Repeat pixels until a map is as large as another: twice in each direction, where sizes are even."""
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


class AllAtLastStride(nn.Module):
    """cat(avg4x4(x3), avg2x2(x4), x5): maps of strides 8, 16 and 32 as one map of stride 32."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        x3, x4, x5 = maps
        return torch.cat((F.avg_pool2d(x3, 4, ceil_mode=True), F.avg_pool2d(x4, 2, ceil_mode=True), x5), 1)


class Last(nn.Module):
    """The last of some maps."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[-1]


class YOLOv7(YOLOv7Backbone):
    """YOLOv7 up to the maps that its detection layer reads: taps at strides 8, 16 and 32.

    With `features_only` it is that; else, as timm's contract wants, a linear classifier on all three maps. The
    classifier is ours: nothing was published of it.

    Args:
        timm: As in timm, see `zoo.models.staged.Common`.
        block, stacked, depth_multiplier, width_multiplier: See `YOLOv7Neck`; both multipliers also scale the
            backbone, whose convolutions are plain.
    """

    def __init__(
        self,
        *,
        block: str = "repconv",
        stacked: bool = False,
        depth_multiplier: float = 1.0,
        width_multiplier: float | None = None,
        **timm: Any,
    ) -> None:
        common = Common(**timm)
        scale: dict[str, Any] = {"depth_multiplier": depth_multiplier, "width_multiplier": width_multiplier}
        super().__init__(**scale, **{**timm, "num_classes": 0})
        read = [info["num_chs"] for info in self.feature_info[2:]]
        self.neck = YOLOv7Neck(read, block=block, stacked=stacked, **scale, **common.dd)
        self.feature_info = [
            {"num_chs": channels, "reduction": reduction, "module": f"neck.heads.{index}"}
            for index, (channels, reduction) in enumerate(zip(self.neck.channels, (8, 16, 32), strict=True))
        ]
        self.final = AllAtLastStride()
        self.num_classes, self.num_features = common.num_classes, sum(self.neck.channels)
        self.head = common.head(self.num_features)

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """Images → the maps of strides 8, 16 and 32."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint_seq(stage, x)
            else:
                x = stage(x)
            maps.append(x)
        return self.neck(maps[1:])

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) → (N, num_features, H / 32, W / 32): all three maps, averaged to the last one's size."""
        return self.final(self.forward_maps(x))

    @property
    def num_taps(self) -> int:
        """Three: the maps of strides 8, 16 and 32."""
        return len(self.neck.heads)

    @torch.jit.ignore()
    def taps(self, x: Tensor, last: int) -> list[Tensor]:
        """Images → the maps of strides 8, 16 and 32 up to `last`; all are computed."""
        return self.forward_maps(x)[: last + 1]

    @torch.jit.ignore()
    def join(self, maps: list[Tensor]) -> Tensor:
        return self.final(maps)

    @torch.jit.ignore()
    def end_at(self, wanted: list[int], last: int) -> None:
        self.final = Last()
        self.neck.keep(wanted)


# Images as the official detector has them: 640 pixels, fitted and padded, values from 0 to 1.
_CFG = {"input_size": (3, 640, 640), "pool_size": (20, 20), "crop_pct": 1.0, "crop_mode": "border"}
_CFG |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "first_conv": "stem.conv1.conv"}
register("yolov7", YOLOv7, "YOLOv7", **_CFG)
register("yolov7x", partial(YOLOv7, block="plain", stacked=True, depth_multiplier=1.5), "YOLOv7", **_CFG)
