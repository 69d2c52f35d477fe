"""YOLOv7 (arXiv 2207.02696): RepConv, the re-parameterized unit of its heads, and its backbone as a classifier.

    conv       = silu(bn(KxK))                                             RepConv = silu(bn(3x3) + bn(1x1) + bn(id))
    elan       = conv1x1(cat(c4, c2, b, a))   a, b = conv1x1(x);  c1 … c4 = four conv3x3 after b; c2, c4 of them kept
    transition = cat(conv3x3/2(conv1x1(x)), conv1x1(maxpool/2(x)))

Layers 0 to 50 of the official cfg/training/yolov7.yaml. The backbone itself is plain there; "planned" re-param
(section 4.2) forbids the identity branch where an output is concatenated, so in `yolov7_backbone_rep` each 3x3 of an
ELAN is a RepConv without identity ("repconvn"), every other 3x3 a RepConv.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from timm.layers import ClassifierHead
from torch import Tensor, nn

from zoo.models.staged import StagedNetwork
from zoo.registry import register_model
from zoo.reparam.algebra import ConvSpec
from zoo.reparam.branches import build_block, without_identity

STAGES = ((64, 256), (128, 512), (256, 1024), (256, 1024))
"""Hidden and output channels of the ELANs at strides 4, 8, 16 and 32."""


class RepConv(nn.Module):
    """silu(Σ branches(x)), with YOLOv7's argument order; the identity branch exists if c1 = c2 and s = 1.

    Args:
        c1, c2: Input and output channels.
        k, s, g: Kernel size, stride, groups. Any kernel size and groups fold exactly.
        block: The branch set; "plain" gives YOLOv7's `Conv`.
    """

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, *, block: str = "repconv", **dd: Any
    ) -> None:
        super().__init__()
        padding = k // 2
        spec = ConvSpec(
            in_channels=c1, out_channels=c2, kernel_size=(k, k), stride=(s, s), padding=(padding, padding), groups=g
        )
        self.conv = build_block(spec, block, **dd)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class ELAN(nn.Module):
    """conv1x1(cat(c4, c2, b, a)) of two pointwise paths, one of them going on through four 3x3."""

    def __init__(self, c1: int, hidden: int, c2: int, block: str, dd: dict[str, Any]) -> None:
        super().__init__()
        self.path_a = _conv(c1, hidden, 1, **dd)
        self.path_b = _conv(c1, hidden, 1, **dd)
        self.conv1, self.conv2, self.conv3, self.conv4 = (RepConv(hidden, hidden, block=block, **dd) for _ in range(4))
        self.join = _conv(4 * hidden, c2, 1, **dd)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.path_a(x), self.path_b(x)
        c2 = self.conv2(self.conv1(b))
        c4 = self.conv4(self.conv3(c2))
        return self.join(torch.cat((c4, c2, b, a), 1))


class Transition(nn.Module):
    """cat(conv3x3/2(conv1x1(x)), conv1x1(maxpool/2(x))): half the size, each path half the channels of x."""

    def __init__(self, channels: int, block: str, dd: dict[str, Any]) -> None:
        super().__init__()
        half = channels // 2
        # ceil_mode: an odd map gives what the strided convolution gives; even ones are as in the official network.
        self.pool = nn.Sequential(OrderedDict(max=nn.MaxPool2d(2, ceil_mode=True), conv=_conv(channels, half, 1, **dd)))
        self.stride = nn.Sequential(
            OrderedDict(conv1=_conv(channels, half, 1, **dd), conv2=RepConv(half, half, s=2, block=block, **dd))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.stride(x), self.pool(x)), 1)


class YOLOv7Backbone(StagedNetwork):
    """YOLOv7's backbone with a classifier. Taps at strides 2, 4, 8, 16 and 32; the detector reads the last three.

    Args:
        num_classes, in_chans, drop_rate, global_pool: As in timm.
        block: The branch set of the 3x3 convolutions.
        elan_block: Of those inside an ELAN; by default `block` without an identity branch.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        block: str = "plain",
        elan_block: str | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        if elan_block is None:
            elan_block = without_identity(block)
        stem = nn.Sequential(
            OrderedDict(
                conv1=RepConv(in_chans, 32, block=block, **dd),
                conv2=RepConv(32, 64, s=2, block=block, **dd),
                conv3=RepConv(64, 64, block=block, **dd),
            )
        )
        stages, previous = [], 64
        for index, (hidden, width) in enumerate(STAGES):
            down = Transition(previous, block, dd) if index else RepConv(previous, 128, s=2, block=block, **dd)
            entering = previous if index else 128
            stages.append(nn.Sequential(OrderedDict(down=down, elan=ELAN(entering, hidden, width, elan_block, dd))))
            previous = width
        super().__init__(
            stem,
            stages,
            ClassifierHead(previous, num_classes, global_pool, drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
            channels=[64, *(width for _, width in STAGES)],
            reductions=[2, 4, 8, 16, 32],
            drop_rate=drop_rate,
        )
        for module in self.modules():  # the official initialize_weights
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = 1e-3, 0.03


def _conv(c1: int, c2: int, k: int, s: int = 1, **dd: Any) -> RepConv:
    return RepConv(c1, c2, k, s, block="plain", **dd)


def _builder(default: str) -> Any:
    return lambda block=default, **kwargs: YOLOv7Backbone(block=block, **kwargs)


for _name, _block in (("yolov7_backbone", "plain"), ("yolov7_backbone_rep", "repconv")):
    register_model(_builder(_block), name=_name, family="YOLOv7", first_conv="stem.conv1.conv", classifier="head.fc")
