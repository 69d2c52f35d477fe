"""MobileOne: An Improved One millisecond Mobile Backbone (arXiv 2206.04040).

    block = relu(se(k · bn(KxK) + bn(1x1) + bn(id)))       figure 3; se in S4 only, bn(1x1) where K > 1
    unit  = block(1x1) ∘ block(dw3x3)

A 3x3 stem and four stages of units, each starting with stride 2. Deployed: one convolution a block.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from zoo.models.repvgg import relu_unit
from zoo.models.repvggplus import squeezed_unit
from zoo.models.staged import Common, StagedNetwork, dilated, register, same_spec

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


class MobileOne(StagedNetwork):
    """MobileOne in training structure.

    Args:
        variant: The paper's column.
        output_stride, timm: As in timm, see `zoo.models.staged.Common`.
        block: The branch set of every block, if not the variant's.
    """

    def __init__(self, variant: Variant, *, output_stride: int = 32, block: str | None = None, **timm: Any) -> None:
        common = Common(**timm)
        dd, widths = common.dd, variant.widths
        plan = dilated([2, 2, 2, 2, 2], (1, *DEPTHS), output_stride)[1:]
        stem = relu_unit(same_spec(common.in_chans, widths[0], 3, 2), block or "kxk+1x1+identity", **dd)
        stages = []
        for stage, geometries in enumerate(plan):
            previous, width = widths[stage], widths[stage + 1]
            blocks = []
            for position, geometry in enumerate(geometries):
                squeezed = variant.se and position >= DEPTHS[stage] - SE_UNITS[stage]
                unit = squeezed_unit if squeezed else relu_unit
                # A stage's first depthwise block has no identity branch, even if its stride is traded for dilation.
                branches = f"kxk*{variant.k}+1x1" if position == 0 else f"kxk*{variant.k}+1x1+identity"
                depthwise = same_spec(previous, previous, 3, *geometry, groups=previous)
                blocks.append(unit(depthwise, block or branches, **dd))
                pointwise = same_spec(previous, width, 1)
                blocks.append(unit(pointwise, block or f"kxk*{variant.k}+identity", **dd))
                previous = width
            stages.append(nn.Sequential(*blocks))
        strides = [2, *(geometries[0][0] for geometries in plan)]
        super().__init__(stem, stages, common, channels=widths, strides=strides)


VARIANTS: dict[str, Variant] = {
    "mobileone_s0": Variant((0.75, 1, 1, 2), k=4),
    "mobileone_s1": Variant((1.5, 1.5, 2, 2.5)),
    "mobileone_s2": Variant((1.5, 2, 2.5, 4)),
    "mobileone_s3": Variant((2, 2.5, 3, 4)),
    "mobileone_s4": Variant((3, 3.5, 3.5, 4), se=True),
}


for _name, _variant in VARIANTS.items():
    _crop_pct = 0.875 if _name == "mobileone_s0" else 0.9
    register(_name, partial(MobileOne, _variant), "MobileOne", crop_pct=_crop_pct)
