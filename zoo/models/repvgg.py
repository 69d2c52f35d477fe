"""RepVGG: Making VGG-style ConvNets Great Again (arXiv 2101.03697).

    block = relu(bn(3x3) + bn(1x1) + bn(id))     section 3.3; bn(id) not in a stage's first block

Five stages of such blocks, each starting with stride 2; no pooling until the head. Deployed: a stack of 3x3 and ReLU.
D2se and RepVGGplus, whose blocks have squeeze-and-excitation, are in `zoo.models.repvggplus`.
"""

# Without `from __future__ import annotations`: torch.fx writes the annotations of `forward` into the code it
# generates, and torch.jit reads that only where they are types, not strings.

import itertools
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from zoo.models.staged import Common, StagedNetwork, dilated, register
from zoo.reparam.branches import build_block, chain, without_identity
from zoo.reparam.spec import ConvSpec


@dataclass(frozen=True)
class Variant:
    """One row of the paper's Tables 2 and 3.

    depths: blocks of the four stages after the stem.
    a, b: width multipliers; b is the last stage's, a that of all before it.
    groups: of every second layer, the 3rd to the 27th.
    """

    depths: tuple[int, int, int, int]
    a: float
    b: float
    groups: int = 1
    stem_stride: int = 2

    @property
    def widths(self) -> list[int]:
        """Channels of the stem (scaled down, never up) and of the four stages."""
        a = self.a
        return [min(64, int(64 * a)), int(64 * a), int(128 * a), int(256 * a), int(512 * self.b)]


def relu_unit(spec: ConvSpec, block: str, **options: Any) -> nn.Module:
    """relu(Σ branches(x)); `options` as of `build_block`."""
    return chain(conv=build_block(spec, block, **options), act=nn.ReLU(inplace=True))


class RepVGG(StagedNetwork):
    """RepVGG in training structure.

    Args:
        variant: The paper's row.
        output_stride, timm: As in timm, see `zoo.models.staged.Common`.
        block: The branch set of every 3x3 (ablations: "plain", "kxk+identity", "acb"); the first block of a
            stage never has an identity branch, even if its stride is traded for dilation.
    """

    unit = staticmethod(relu_unit)

    def __init__(self, variant: Variant, *, output_stride: int = 32, block: str = "repvgg", **timm: Any) -> None:
        common = Common(**timm)
        widths, stages = variant.widths, []
        previous, index = common.in_chans, 0
        plan = dilated([variant.stem_stride, 2, 2, 2, 2], (1, *variant.depths), output_stride)
        for width, geometries in zip(widths, plan, strict=True):
            blocks = []
            for position, (stride, dilation) in enumerate(geometries):
                groups = variant.groups if index in range(2, 27, 2) else 1
                spec = ConvSpec(previous, width, 3, stride, dilation, dilation, groups)
                blocks.append(self.unit(spec, block if position else without_identity(block), **common.dd))
                previous, index = width, index + 1
            stages.append(nn.Sequential(*blocks))
        strides = [geometries[0][0] for geometries in plan]
        super().__init__(stages[0][0], stages[1:], common, channels=widths, strides=strides)


_A, _B = (2, 4, 14, 1), (4, 6, 16, 1)
VARIANTS: dict[str, Variant] = {
    "repvgg_a0": Variant(_A, 0.75, 2.5),
    "repvgg_a1": Variant(_A, 1, 2.5),
    "repvgg_a2": Variant(_A, 1.5, 2.75),
    "repvgg_b0": Variant(_B, 1, 2.5),
    "repvgg_b1": Variant(_B, 2, 4),
    "repvgg_b2": Variant(_B, 2.5, 5),
    "repvgg_b3": Variant(_B, 3, 5),
    # Ours, for small images: the quickstart and the tests.
    "repvgg_tiny": Variant((1, 2, 3, 1), 0.375, 0.375, stem_stride=1),
}
for _size, _groups in itertools.product(("repvgg_b1", "repvgg_b2", "repvgg_b3"), (2, 4)):
    VARIANTS[f"{_size}g{_groups}"] = replace(VARIANTS[_size], groups=_groups)


CFGS: dict[str, dict[str, Any]] = {"repvgg_tiny": {"input_size": (3, 32, 32), "pool_size": (2, 2)}}
for _name, _variant in VARIANTS.items():
    register(_name, partial(RepVGG, _variant), "RepVGG", **CFGS.get(_name, {}))
