"""RepVGG: Making VGG-style ConvNets Great Again (arXiv 2101.03697), and RepVGGplus of the same authors' repository.

    block = relu(bn(3x3) + bn(1x1) + bn(id))                       section 3.3; bn(id) not in a stage's first block
    block = relu(se(…))   in D2se,   se(relu(…))   in RepVGGplus

Five stages of such blocks, each starting with stride 2; no pooling until the head. Deployed: a stack of 3x3 and ReLU.
"""

# Without `from __future__ import annotations`: torch.fx writes the annotations of `forward` into the code it
# generates, and torch.jit reads that only where they are types, not strings.

from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import ClassifierHead, SqueezeExcite, get_device_dtype
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from zoo.models.staged import StagedNetwork, dilated
from zoo.registry import register_model
from zoo.reparam.algebra import ConvSpec
from zoo.reparam.branches import build_block, without_identity
from zoo.reparam.layers import TrainingOnly


@dataclass(frozen=True)
class Variant:
    """One row of the paper's Tables 2 and 3.

    depths: blocks of the four stages after the stem. a, b: width multipliers of all stages but the last, and of it.
    groups: of every second layer, the 3rd to the 27th. se: hidden width is out_channels / ratio, before the ReLU
    or after it.
    """

    depths: tuple[int, int, int, int]
    a: float
    b: float
    groups: int = 1
    se_ratio: int | None = None
    se_after_relu: bool = False
    aux_heads: bool = False
    stem_stride: int = 2

    @property
    def widths(self) -> list[int]:
        """Channels of the stem (scaled down, never up) and of the four stages."""
        a = self.a
        return [min(64, int(64 * a)), int(64 * a), int(128 * a), int(256 * a), int(512 * self.b)]


class RepVGGBlock(nn.Module):
    """relu(Σ branches(x)), with squeeze-and-excitation before or after the ReLU where the variant has it."""

    def __init__(self, spec: ConvSpec, block: str, variant: Variant, dd: dict[str, Any]) -> None:
        super().__init__()
        self.conv = build_block(spec, block, **dd)
        se = nn.Identity()
        if variant.se_ratio:
            se = SqueezeExcite(spec.out_channels, rd_channels=spec.out_channels // variant.se_ratio, **dd)
        self.se_after_relu = variant.se_after_relu
        self.se = se
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.se_after_relu:
            return self.se(self.act(x))
        return self.act(self.se(x))


class RepVGG(StagedNetwork):
    """RepVGG in training structure.

    Args:
        variant: The paper's row.
        num_classes, in_chans, drop_rate, global_pool, output_stride: As in timm.
        block: The branch set of every 3x3 (ablations: "plain", "kxk+identity", "acb"); the first block of a
            stage never has an identity branch, even if its stride is traded for dilation.
    """

    def __init__(
        self,
        variant: Variant,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        output_stride: int = 32,
        block: str = "repvgg",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        widths, stages, index, reductions = variant.widths, [], 0, []
        previous, reduction = in_chans, 1
        plan = dilated([variant.stem_stride, 2, 2, 2, 2], output_stride)
        for depth, width, (stride, first, dilation) in zip((1, *variant.depths), widths, plan, strict=True):
            blocks = []
            for position in range(depth):
                spec = ConvSpec(
                    in_channels=previous,
                    out_channels=width,
                    kernel_size=(3, 3),
                    stride=(stride, stride) if position == 0 else (1, 1),
                    padding=(first, first) if position == 0 else (dilation, dilation),
                    dilation=(first, first) if position == 0 else (dilation, dilation),
                    groups=variant.groups if index in range(2, 27, 2) else 1,
                )
                blocks.append(RepVGGBlock(spec, without_identity(block) if position == 0 else block, variant, dd))
                previous, index = width, index + 1
            stages.append(nn.Sequential(*blocks))
            reduction *= stride
            reductions.append(reduction)
        super().__init__(
            stages[0][0],
            stages[1:],
            ClassifierHead(widths[-1], num_classes, global_pool, drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
            channels=widths,
            reductions=reductions,
            drop_rate=drop_rate,
        )


class RepVGGPlus(RepVGG):
    """RepVGG with three auxiliary classifiers: after stages 1 and 2, and half-way through stage 3.

    In training mode the forward pass returns (logits, auxiliary logits, ×3), for a loss of
    CE(logits) + 0.1 Σ CE(auxiliary logits); in eval mode the logits. Deploying removes the auxiliary heads.
    """

    def __init__(self, variant: Variant, **kwargs: Any) -> None:
        super().__init__(variant, **kwargs)
        dd = {"device": kwargs.get("device"), "dtype": kwargs.get("dtype")}
        widths = variant.widths[1:4]
        self.aux_heads = TrainingOnly([_auxiliary_head(w, self.num_classes, dd) for w in widths])

    def forward(self, x: Tensor) -> Any:
        if torch.jit.is_scripting() or not self.training or len(self.aux_heads) == 0:
            return self.forward_head(self.forward_features(x))
        x = self.stem(x)
        auxiliary = []
        stages: Any = self.stages
        taps = (stages[0][-1], stages[1][-1], stages[2][len(stages[2]) // 2 - 1])
        for stage in stages:
            for block in stage:  # one by one: a slice of a stage is no module of the network's, which fx refuses
                x = checkpoint(block, x) if self.grad_checkpointing else block(x)
                if any(block is tap for tap in taps):
                    auxiliary.append(self.aux_heads[len(auxiliary)](x))
        return (self.forward_head(x), *auxiliary)

    @torch.jit.ignore()
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        heads: Any = self.aux_heads
        for *_, classifier in heads:
            classifier.reset(num_classes, global_pool, **get_device_dtype(self))

    @torch.jit.ignore()
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        wanted = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head:
            self.aux_heads.clear()
        return wanted


def _auxiliary_head(channels: int, num_classes: int, dd: dict[str, Any]) -> nn.Module:
    """fc(pool(relu(bn(3x3, stride 2))))"""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, 2, 1, bias=False, **dd),
        nn.BatchNorm2d(channels, **dd),
        nn.ReLU(inplace=True),
        ClassifierHead(channels, num_classes, **dd),
    )


_A, _B, _D = (2, 4, 14, 1), (4, 6, 16, 1), (8, 14, 24, 1)
VARIANTS: dict[str, Variant] = {
    "repvgg_a0": Variant(_A, 0.75, 2.5),
    "repvgg_a1": Variant(_A, 1, 2.5),
    "repvgg_a2": Variant(_A, 1.5, 2.75),
    "repvgg_b0": Variant(_B, 1, 2.5),
    "repvgg_b1": Variant(_B, 2, 4),
    "repvgg_b1g2": Variant(_B, 2, 4, groups=2),
    "repvgg_b1g4": Variant(_B, 2, 4, groups=4),
    "repvgg_b2": Variant(_B, 2.5, 5),
    "repvgg_b2g2": Variant(_B, 2.5, 5, groups=2),
    "repvgg_b2g4": Variant(_B, 2.5, 5, groups=4),
    "repvgg_b3": Variant(_B, 3, 5),
    "repvgg_b3g2": Variant(_B, 3, 5, groups=2),
    "repvgg_b3g4": Variant(_B, 3, 5, groups=4),
    "repvgg_d2se": Variant(_D, 2.5, 5, se_ratio=16),
    "repvggplus_l2pse": Variant(_D, 2.5, 5, se_ratio=4, se_after_relu=True, aux_heads=True),
    # Ours, for small images: the quickstart and the tests.
    "repvgg_tiny": Variant((1, 2, 3, 1), 0.375, 0.375, stem_stride=1),
}


def _builder(variant: Variant) -> Any:
    network = RepVGGPlus if variant.aux_heads else RepVGG
    return lambda block="repvgg", **kwargs: network(variant, block=block, **kwargs)


for _name, _variant in VARIANTS.items():
    _cfg: dict[str, Any] = {
        "first_conv": "stem.conv",
        "classifier": "head.fc",
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
    }
    if _name in ("repvgg_d2se", "repvggplus_l2pse"):
        _cfg |= {"test_input_size": (3, 320, 320), "test_crop_pct": 1.0}
    if _name == "repvgg_tiny":
        _cfg |= {"input_size": (3, 32, 32), "pool_size": (2, 2)}
    register_model(_builder(_variant), name=_name, family="RepVGG", **_cfg)
