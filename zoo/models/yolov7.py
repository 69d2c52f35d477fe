"""YOLOv7 (arXiv 2207.02696): RepConv, the re-parameterized unit of its heads, ELAN, and its backbone as a classifier.

    conv       = silu(bn(KxK))                                             RepConv = silu(bn(3x3) + bn(1x1) + bn(id))
    elan       = conv1x1(cat(s_n, …, s_1, b, a))   a, b = conv1x1(x);  s_1 = step(b), s_2 = step(s_1), …
    transition = cat(conv3x3/2(conv1x1(x)), conv1x1(maxpool/2(x)))

Layers 0 to 50 of the official cfg/training/yolov7.yaml; the layers after them are in `zoo.models.yolov7_neck`. The
backbone itself is plain there; "planned" re-param (section 4.1) forbids the identity branch where an output is
concatenated, so in `yolov7_backbone_rep` each 3x3 of an ELAN is a RepConv without identity ("repconvn"), every other
3x3 a RepConv.
"""

# Without `from __future__ import annotations`: torch.fx writes the annotations of `forward` into the code it
# generates, and torch.jit reads that only where they are types, not strings.

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.staged import Common, StagedNetwork, register, same_spec
from zoo.reparam.branches import build_block, chain, without_identity

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
        self.conv = build_block(same_spec(c1, c2, k, s, groups=g), block, **dd)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


def conv(c1: int, c2: int, k: int, s: int = 1, **dd: Any) -> RepConv:
    """Build YOLOv7's plain unit, silu(bn(KxK))."""
    return RepConv(c1, c2, k, s, block="plain", **dd)


class ELAN(nn.Module):
    """conv1x1(cat(s_n, …, s_1, b, a)): of two pointwise paths a and b, the second goes on in steps of 3x3.

    The backbone's has two steps of two 3x3; the neck's (ELAN-H) four steps of one, half as wide as a and b; that of
    YOLOv7-X (ELAN-W) three steps of two.

    Args:
        c1, c2: Input and output channels.
        hidden: Channels of a and b.
        width: Channels of the 3x3 convolutions.
        steps, convs: How many steps, each concatenated, and how many 3x3 in each.
        block: The branch set of the 3x3 convolutions.
    """

    def __init__(
        self, c1: int, hidden: int, c2: int, *, width: int, steps: int, convs: int, block: str = "plain", **dd: Any
    ) -> None:
        super().__init__()
        self.path_a = conv(c1, hidden, 1, **dd)
        self.path_b = conv(c1, hidden, 1, **dd)
        inputs = [hidden] + [width] * (steps * convs - 1)
        units = [RepConv(channels, width, block=block, **dd) for channels in inputs]
        self.steps = nn.ModuleList(nn.Sequential(*units[i : i + convs]) for i in range(0, len(units), convs))
        self.join = conv(2 * hidden + steps * width, c2, 1, **dd)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.path_a(x), self.path_b(x)]
        for step in self.steps:
            maps.append(step(maps[-1]))
        return self.join(torch.cat(maps[::-1], 1))


class Transition(nn.Module):
    """cat(conv3x3/2(conv1x1(x)), conv1x1(maxpool/2(x))): half the size, 2 · width channels.

    The official MP-C: in the backbone a path has half the channels of x, in the neck as many as x.
    """

    def __init__(self, c1: int, width: int, block: str = "plain", **dd: Any) -> None:
        super().__init__()
        # ceil_mode: an odd map gives what the strided convolution gives; even ones are as in the official network.
        self.pool = chain(max=nn.MaxPool2d(2, ceil_mode=True), conv=conv(c1, width, 1, **dd))
        self.stride = chain(conv1=conv(c1, width, 1, **dd), conv2=RepConv(width, width, s=2, block=block, **dd))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.stride(x), self.pool(x)), 1)


class CompoundScale:
    """Depth and width of a scaled YOLOv7 (section 3.2 of the paper, figure 3).

    Deeper ELANs concatenate more maps, so all that is outside their 3x3 stacks widens by as much: by (1 + depth) / 2,
    since half of the maps are steps. YOLOv7-X is depth 1.5, hence width 1.25.

    Args:
        depth: Multiplies the steps of an ELAN.
        width: Multiplies the channels outside the ELANs, rounded up to a multiple of 8; None follows from `depth`.

    Raises:
        ValueError: No step would be left, or no channel.
    """

    def __init__(self, depth: float = 1.0, width: float | None = None) -> None:
        if round(2 * depth) < 1:
            raise ValueError(f"depth_multiplier={depth}: leaves an ELAN without a step; 0.5 is the least")
        if width is not None and width <= 0:
            raise ValueError(f"width_multiplier={width}: must be positive")
        self.depth, self.width = depth, (1 + depth) / 2 if width is None else width

    def steps(self, steps: int) -> int:
        return round(steps * self.depth)

    def channels(self, channels: int) -> int:
        return 8 * math.ceil(channels * self.width / 8)


class YOLOv7Backbone(StagedNetwork):
    """YOLOv7's backbone with a classifier. Taps at strides 2, 4, 8, 16 and 32; the detector reads the last three.

    Args:
        block: The branch set of the 3x3 convolutions.
        elan_block: Of those inside an ELAN; by default `block` without an identity branch.
        depth_multiplier, width_multiplier: See `CompoundScale`.
        timm: As in timm, see `zoo.models.staged.Common`.
    """

    def __init__(
        self,
        *,
        block: str = "plain",
        elan_block: str | None = None,
        depth_multiplier: float = 1.0,
        width_multiplier: float | None = None,
        **timm: Any,
    ) -> None:
        common = Common(**timm)
        dd = common.dd
        scale = CompoundScale(depth_multiplier, width_multiplier)
        if elan_block is None:
            elan_block = without_identity(block)
        c1, c2, c3 = (scale.channels(channels) for channels in (32, 64, 128))
        stem = chain(
            conv1=RepConv(common.in_chans, c1, block=block, **dd),
            conv2=RepConv(c1, c2, s=2, block=block, **dd),
            conv3=RepConv(c2, c2, block=block, **dd),
        )
        stages, channels = [], [c2]
        for hidden, width in STAGES:
            entering = channels[-1]
            if stages:
                down: nn.Module = Transition(entering, entering // 2, block, **dd)
            else:
                down, entering = RepConv(c2, c3, s=2, block=block, **dd), c3
            channels.append(scale.channels(width))
            stack = {"width": hidden, "steps": scale.steps(2), "convs": 2, "block": elan_block}
            elan = ELAN(entering, hidden, channels[-1], **stack, **dd)
            stages.append(chain(down=down, elan=elan))
        super().__init__(stem, stages, common, channels=channels, strides=[2] * 5)
        set_official_norms(self)


def set_official_norms(network: nn.Module) -> None:
    """Give every BatchNorm the ε and momentum of the official `initialize_weights`."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03


for _name, _block in (("yolov7_backbone", "plain"), ("yolov7_backbone_rep", "repconv")):
    register(_name, partial(YOLOv7Backbone, block=_block), "YOLOv7", first_conv="stem.conv1.conv")
