"""AlexNet (Krizhevsky et al. 2012; the one-tower widths of arXiv 1404.5997) with a BatchNorm after every convolution.

    conv = relu(bn(KxK))
    conv 11x11 / 4, pool, conv 5x5, pool, conv 3x3, conv 3x3, conv 3x3, pool, fc 4096, fc 4096, fc

The baseline of ACNet (arXiv 1908.03930) and DBB (arXiv 2103.13425): 64, 192, 384, 384 and 256 channels (torchvision's
fourth convolution has 256, and it has no BatchNorms).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.staged import StagedNetwork


class AlexNetHead(nn.Module):
    """fc(hidden(flatten(pool(x)))), in the manner of timm's `ClassifierHead`.

    The hidden layers read a 6x6 map, which is what images of 224 pixels give; other maps are averaged to that.
    Without pooling (`pool_type=""`) the head hands the map through.
    """

    def __init__(self, in_channels: int, num_classes: int, pool: str, drop_rate: float, dd: dict[str, Any]) -> None:
        super().__init__()
        if num_classes and not pool:
            raise ValueError("global_pool='' needs num_classes=0: AlexNet's classifier reads pooled features")
        self.num_features = 4096
        self.global_pool = nn.AdaptiveAvgPool2d(6)
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten(1))
        for name, features in (("fc1", in_channels * 36), ("fc2", self.num_features)):
            layers[name] = nn.Linear(features, self.num_features, **dd)
            layers[f"{name}_act"] = nn.ReLU(inplace=True)
            layers[f"{name}_drop"] = nn.Dropout(drop_rate)
        self.hidden = nn.Sequential(layers)
        self.reset(num_classes, pool, **dd)

    def reset(self, num_classes: int, pool_type: str | None = None, **dd: Any) -> None:
        """A fresh classifier (0: none); pooling on ("avg") or off ("")."""
        if pool_type is not None:
            if pool_type not in ("avg", ""):
                raise ValueError(
                    f"global_pool={pool_type!r}: AlexNet's head averages to 6x6 ('avg') or not at all ('')"
                )
            self.pools = bool(pool_type)
        self.fc = nn.Linear(self.num_features, num_classes, **dd) if num_classes else nn.Identity()
        self.train(self.training)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if not self.pools:
            return x
        x = self.hidden(self.global_pool(x))
        return x if pre_logits else self.fc(x)


class AlexNet(StagedNetwork):
    """AlexNet with BatchNorm. Taps are the maps before each pooling; their strides are 4, 8 and 16.

    Args:
        num_classes, in_chans, drop_rate: As in timm.
        global_pool: "avg", or "" for the unpooled map.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.5,
        global_pool: str = "avg",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(
            _conv(in_chans, 64, 11, 4, 2, dd),
            [
                nn.Sequential(OrderedDict(pool=_pool(), conv2=_conv(64, 192, 5, 1, 2, dd))),
                nn.Sequential(
                    OrderedDict(
                        pool=_pool(),
                        conv3=_conv(192, 384, 3, 1, 1, dd),
                        conv4=_conv(384, 384, 3, 1, 1, dd),
                        conv5=_conv(384, 256, 3, 1, 1, dd),
                    )
                ),
            ],
            AlexNetHead(256, num_classes, global_pool, drop_rate, dd),
            final=_pool(),
            num_classes=num_classes,
            in_chans=in_chans,
            channels=[64, 192, 256],
            reductions=[4, 8, 16],
            drop_rate=drop_rate,
        )

    @torch.jit.ignore()
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """A group a convolution, or a stage if `coarse`."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.\d+\.conv(\d+)"}


def _conv(
    in_channels: int, out_channels: int, kernel: int, stride: int, padding: int, dd: dict[str, Any]
) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False, **dd)
    bn = nn.BatchNorm2d(out_channels, **dd)
    return nn.Sequential(OrderedDict(conv=conv, bn=bn, act=nn.ReLU(inplace=True)))


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, 2)
