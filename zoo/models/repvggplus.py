"""The deeper networks of RepVGG's authors, with squeeze-and-excitation (github.com/DingXiaoH/RepVGG).

block = relu(se(bn(3x3) + bn(1x1) + bn(id)))     RepVGG-D2se
block = se(relu(bn(3x3) + bn(1x1) + bn(id)))     RepVGGplus, which in training has auxiliary classifiers too
"""

# Without `from __future__ import annotations`: torch.fx writes the annotations of `forward` into the code it
# generates, and torch.jit reads that only where they are types, not strings.

from functools import partial
from typing import Any

import torch
from timm.layers import ClassifierHead, SqueezeExcite, get_device_dtype
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from zoo.models.repvgg import RepVGG, Variant
from zoo.models.staged import register
from zoo.reparam.branches import build_block, chain
from zoo.reparam.spec import ConvSpec
from zoo.surgery.deploy import TrainingOnly


def squeezed_unit(spec: ConvSpec, block: str, **dd: Any) -> nn.Module:
    """relu(se(Σ branches(x))), a sixteenth of the channels in the middle of se."""
    conv = build_block(spec, block, **dd)
    se = SqueezeExcite(spec.out_channels, rd_channels=spec.out_channels // 16, **dd)
    return chain(conv=conv, se=se, act=nn.ReLU(inplace=True))


def plus_unit(spec: ConvSpec, block: str, **dd: Any) -> nn.Module:
    """se(relu(Σ branches(x))), a quarter of the channels in the middle of se."""
    conv = build_block(spec, block, **dd)
    se = SqueezeExcite(spec.out_channels, rd_channels=spec.out_channels // 4, **dd)
    return chain(conv=conv, act=nn.ReLU(inplace=True), se=se)


class RepVGGSE(RepVGG):
    """RepVGG with squeeze-and-excitation before every ReLU."""

    unit = staticmethod(squeezed_unit)


class RepVGGPlus(RepVGG):
    """RepVGG with three auxiliary classifiers: after stages 1 and 2, and half-way through stage 3.

    In training mode the forward pass returns (logits, auxiliary logits, ×3), for a loss of
    CE(logits) + 0.1 Σ CE(auxiliary logits); in eval mode the logits. Deploying removes the auxiliary heads.
    """

    unit = staticmethod(plus_unit)

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


for _name, _network in {"repvgg_d2se": RepVGGSE, "repvggplus_l2pse": RepVGGPlus}.items():
    _builder = partial(_network, Variant((8, 14, 24, 1), 2.5, 5))
    register(_name, _builder, "RepVGG", test_input_size=(3, 320, 320), test_crop_pct=1.0)
