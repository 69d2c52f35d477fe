"""StagedNetwork: stem → stages → head, with everything that timm expects of such a network."""

# Without `from __future__ import annotations`: torch.fx writes the annotations of `forward` into the code it
# generates, and torch.jit reads that only where they are types, not strings.

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import ClassifierHead, get_device_dtype
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint_seq
from torch import Tensor, nn

from zoo.registry import register_model
from zoo.reparam import branches
from zoo.reparam.spec import ConvSpec


@dataclass(frozen=True, kw_only=True)
class Common:
    """The arguments that every network takes, with timm's names and defaults."""

    num_classes: int = 1000
    in_chans: int = 3
    drop_rate: float = 0.0
    global_pool: str = "avg"
    device: Any = None
    dtype: Any = None

    @property
    def dd(self) -> dict[str, Any]:
        """`device` and `dtype`, for layers."""
        return {"device": self.device, "dtype": self.dtype}

    def head(self, channels: int) -> nn.Module:
        """Pool a map of so many channels and classify it, as most networks do."""
        return ClassifierHead(channels, self.num_classes, self.global_pool, self.drop_rate, **self.dd)


class StagedNetwork(nn.Module):
    """A classification network in timm's contract; families only build its parts.

    logits = head(final(stages(stem(x)))). Taps for features are the stem and each stage's last map.

    Args:
        stem, stages: The parts with a tap.
        common: What it was asked for.
        head: Pools, then classifies, with the attributes and `reset` of timm's `ClassifierHead`; by default it is one.
        final: What a family has between the last tap and pooling.
        channels, strides: Of the stem and of each stage: for `feature_info`.
        num_features: Channels of the map that is pooled, if not the last stage's.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: list[nn.Sequential],
        common: Common,
        *,
        head: nn.Module | None = None,
        final: nn.Module | None = None,
        channels: list[int],
        strides: Sequence[int],
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.drop_rate = common.num_classes, common.in_chans, common.drop_rate
        self.num_features = num_features or channels[-1]
        self.grad_checkpointing = False
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.final = final or nn.Identity()
        self.head: Any = head or common.head(self.num_features)
        modules = ["stem", *(f"stages.{i}" for i in range(len(stages)))]
        reductions = itertools.accumulate(strides, operator.mul)
        self.feature_info = [
            {"num_chs": c, "reduction": r, "module": m} for c, r, m in zip(channels, reductions, modules, strict=True)
        ]

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) → (N, num_features, H / reduction, W / reduction), before pooling."""
        x = self.stem(x)
        for stage in self.stages:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint_seq(stage, x)
            else:
                x = stage(x)
        return self.final(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Unpooled features → logits (N, num_classes), or the vector before the classifier."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    @torch.jit.ignore()
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Feature maps by tap index (0: the stem), alone or beside the features that the head pools.

        Raises:
            ValueError: An output format other than NCHW.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt={output_fmt!r}: feature maps of this network are NCHW")
        wanted, last = feature_take_indices(self.num_taps, indices)
        stopped = stop_early and last < self.num_taps - 1
        maps = self.taps(x, last if stopped else self.num_taps - 1)
        taps = [tap for index, tap in enumerate(maps) if index in wanted]
        if intermediates_only:
            return taps
        return (maps[-1] if stopped else self.join(maps)), taps

    @property
    def num_taps(self) -> int:
        """Number of maps that `forward_intermediates` can give."""
        return len(self.stages) + 1

    @torch.jit.ignore()
    def taps(self, x: Tensor, last: int) -> list[Tensor]:
        """Images → the maps with an index up to `last`."""
        maps = [self.stem(x)]
        for stage in self.stages[:last]:
            maps.append(checkpoint_seq(stage, maps[-1]) if self.grad_checkpointing else stage(maps[-1]))
        return maps

    @torch.jit.ignore()
    def join(self, maps: list[Tensor]) -> Tensor:
        """All maps → the features that the head pools."""
        return self.final(maps[-1])

    @torch.jit.ignore()
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what leads to no wanted tap, and the classifier with what leads to it."""
        wanted, last = feature_take_indices(self.num_taps, indices)
        if prune_head or prune_norm or last < self.num_taps - 1:
            self.num_features = self.feature_info[last]["num_chs"]
            self.end_at(wanted, last)
        if prune_head:
            self.num_classes = 0
            self.head = ClassifierHead(self.num_features, 0, "", self.drop_rate).train(self.training)
        return wanted

    @torch.jit.ignore()
    def end_at(self, wanted: list[int], last: int) -> None:
        """Make the last wanted map the features, and keep nothing that no wanted map needs."""
        self.final = nn.Identity()
        self.stages = self.stages[:last]

    @property
    def head_hidden_size(self) -> int:
        """Length of the vector that is classified."""
        return self.head.num_features

    @torch.jit.ignore()
    def get_classifier(self) -> nn.Module:
        return self.head.fc

    @torch.jit.ignore()
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier of `num_classes` (0: none)."""
        self.num_classes = num_classes
        head: Any = self.head
        head.reset(num_classes, global_pool, **get_device_dtype(self))

    @torch.jit.ignore()
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layer groups for layer-wise learning-rate decay: a group a block, or a stage if `coarse`."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    @torch.jit.ignore()
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable


def dilated(strides: Sequence[int], depths: Sequence[int], output_stride: int) -> list[list[tuple[int, int]]]:
    """(stride, dilation) of each block of each stage for an output stride; the first block of a stage strides.

    Where the network may not be reduced further, a stage dilates instead of striding (DeepLab, 1606.00915): its first
    block as the stage before, the others more.

    Raises:
        ValueError: The product of the first strides cannot be `output_stride`.
    """
    plan, reduction, dilation = [], 1, 1
    for stride, depth in zip(strides, depths, strict=True):
        before = dilation
        if reduction >= output_stride and stride > 1:
            dilation *= stride
            stride = 1
        reduction *= stride
        plan.append([(stride, before)] + [(1, dilation)] * (depth - 1))
    if reduction > output_stride:
        raise ValueError(f"output_stride={output_stride} cannot be reached with strides {strides}")
    return plan


def same_spec(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> ConvSpec:
    """Describe a convolution that is padded to keep the size of a map, but for its stride."""
    return ConvSpec(in_channels, out_channels, kernel, stride, dilation * (kernel // 2), dilation, groups)


def conv_bn(spec: ConvSpec, dd: dict[str, Any], *, relu: bool = False) -> nn.Sequential:
    """bn(KxK(x)), with a ReLU if asked: plain layers, no block."""
    layers = branches.conv_bn(spec, spec.kernel_size, dd)
    if relu:
        layers.add_module("act", nn.ReLU(inplace=True))
    return layers


def register(name: str, builder: Callable[..., nn.Module], family: str, **cfg: Any) -> None:
    """Register a network whose first convolution is `stem.conv` and its classifier `head.fc`, if `cfg` says no other.

    Args:
        cfg: Entries of its `pretrained_cfg`, as of `register_model`.
    """
    register_model(builder, name=name, family=family, **{"first_conv": "stem.conv", "classifier": "head.fc", **cfg})


FAMILIES = {"plain": "plain", "acb": "ACNet", "dbb": "DBB", "orepa": "OREPA"}


def register_twins(name: str, builder: Callable[..., nn.Module], blocks: Sequence[str], **cfg: Any) -> None:
    """Register a network once with each branch set; the family's name stands before its own, unless it is plain."""
    for block in blocks:
        family = FAMILIES[block]
        prefix = "" if block == "plain" else f"{family.lower()}_"
        register(prefix + name, functools.partial(builder, block=block), family, **cfg)
