"""RepVGGplus of RepVGG's authors (github.com/DingXiaoH/RepVGG): deeper, with auxiliary classifiers in training.

block = se(relu(bn(3x3) + bn(1x1) + bn(id)))
"""

# Without `from __future__ import annotations`: torch.fx writes the annotations of `forward` into the code it
# generates, and torch.jit reads that only where they are types, not strings.

from typing import Any

import torch
from timm.layers import ClassifierHead, get_device_dtype
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from zoo.models.repvgg import RepVGG, Variant, register
from zoo.surgery.deploy import TrainingOnly


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


register(
    "repvggplus_l2pse",
    RepVGGPlus,
    Variant((8, 14, 24, 1), 2.5, 5, se_ratio=4, se_after_relu=True),
    test_input_size=(3, 320, 320),
    test_crop_pct=1.0,
)
