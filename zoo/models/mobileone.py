"""MobileOne: An Improved One millisecond Mobile Backbone (arXiv 2206.04040).

    block = relu(se(k · bn(KxK) + bn(1x1) + bn(id)))       figure 3; se in S4 only, bn(1x1) where K > 1
    unit  = block(1x1) ∘ block(dw3x3)

A 3x3 stem and four stages of units, each starting with stride 2. Deployed: one convolution a block.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from timm.layers import SqueezeExcite
from torch import Tensor, nn

from zoo.models.staged import Common, StagedNetwork, dilated
from zoo.registry import register_model
from zoo.reparam.branches import build_block
from zoo.reparam.spec import ConvSpec

DEPTHS = (2, 8, 10, 1)
SE_UNITS = (0, 0, 5, 1)
"""How many units at the end of each stage have squeeze-and-excitation, in S4."""


@dataclass(frozen=True)
class Variant:
    """One column of the paper's Table 4: width multipliers of 64, 128, 256 and 512, and the number k of branches."""

    alphas: tuple[float, float, float, float]
    k: int = 1
    se: bool = False

    @property
    def widths(self) -> list[int]:
        """Channels of the stem and of the four stages."""
        return [min(64, int(64 * self.alphas[0])), *(int(64 * 2**i * a) for i, a in enumerate(self.alphas))]


class MobileOneBlock(nn.Module):
    """relu(se(Σ branches(x)))"""

    def __init__(self, spec: ConvSpec, block: str, se: bool, dd: dict[str, Any]) -> None:
        super().__init__()
        self.conv = build_block(spec, block, **dd)
        self.se = SqueezeExcite(spec.out_channels, rd_channels=spec.out_channels // 16, **dd) if se else nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.se(self.conv(x)))


class MobileOne(StagedNetwork):
    """MobileOne in training structure.

    Args:
        variant: The paper's column.
        output_stride, timm: As in timm, see `zoo.models.staged.Common`.
        block: The branch set of every block, if not the variant's.
    """

    def __init__(
        self,
        variant: Variant,
        *,
        output_stride: int = 32,
        block: str | None = None,
        **timm: Any,
    ) -> None:
        common = Common(**timm)
        dd, widths = common.dd, variant.widths
        plan = dilated([2, 2, 2, 2, 2], output_stride)[1:]
        stem = MobileOneBlock(_spec(common.in_chans, widths[0], 3, 2), block or "kxk+1x1+identity", False, dd)
        stages, reductions = [], [2]
        for stage, (stride, first, dilation) in enumerate(plan):
            previous, width, depth = widths[stage], widths[stage + 1], DEPTHS[stage]
            blocks = []
            for position in range(depth):
                se = variant.se and position >= depth - SE_UNITS[stage]
                geometry = (stride, first) if position == 0 else (1, dilation)
                # A stage's first depthwise block has no identity branch, even if its stride is traded for dilation.
                branches = f"kxk*{variant.k}+1x1" if position == 0 else f"kxk*{variant.k}+1x1+identity"
                depthwise = _spec(previous, previous, 3, *geometry, groups=previous)
                blocks.append(MobileOneBlock(depthwise, block or branches, se, dd))
                pointwise = _spec(previous, width, 1)
                blocks.append(MobileOneBlock(pointwise, block or f"kxk*{variant.k}+identity", se, dd))
                previous = width
            stages.append(nn.Sequential(*blocks))
            reductions.append(reductions[-1] * stride)
        super().__init__(stem, stages, common, channels=widths, reductions=reductions)


def _spec(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> ConvSpec:
    padding = dilation * (kernel // 2)
    return ConvSpec(in_channels, out_channels, kernel, stride, padding, dilation, groups)


VARIANTS: dict[str, Variant] = {
    "mobileone_s0": Variant((0.75, 1, 1, 2), k=4),
    "mobileone_s1": Variant((1.5, 1.5, 2, 2.5)),
    "mobileone_s2": Variant((1.5, 2, 2.5, 4)),
    "mobileone_s3": Variant((2, 2.5, 3, 4)),
    "mobileone_s4": Variant((3, 3.5, 3.5, 4), se=True),
}


for _name, _variant in VARIANTS.items():
    register_model(
        partial(MobileOne, _variant),
        name=_name,
        family="MobileOne",
        first_conv="stem.conv",
        classifier="head.fc",
        crop_pct=0.875 if _name == "mobileone_s0" else 0.9,
    )
