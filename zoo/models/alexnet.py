"""AlexNet (Krizhevsky et al. 2012; the one-tower widths of arXiv 1404.5997) with a BatchNorm after every convolution.

    conv = relu(bn(KxK))
    conv 11x11 / 4, pool, conv 5x5, pool, conv 3x3, conv 3x3, conv 3x3, pool, fc 4096, fc 4096, fc

The baseline of ACNet (arXiv 1908.03930) and DBB (arXiv 2103.13425): 64, 192, 384, 384 and 256 channels (torchvision's
fourth convolution has 256, and it has no BatchNorms).
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from zoo.models.flat_head import FlatHead
from zoo.models.staged import Common, StagedNetwork


class AlexNet(StagedNetwork):
    """AlexNet with BatchNorm. Taps are the maps before each pooling; their strides are 4, 8 and 16.

    Args:
        drop_rate, timm: As in timm, see `zoo.models.staged.Common`; global_pool is "avg", or "" for the unpooled map.
    """

    def __init__(self, *, drop_rate: float = 0.5, **timm: Any) -> None:
        common = Common(drop_rate=drop_rate, **timm)
        dd = common.dd
        super().__init__(
            _conv(common.in_chans, 64, 11, 4, 2, dd),
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
            common,
            head=FlatHead(256, 6, (4096, 4096), common.num_classes, common.global_pool, drop_rate, dd),
            final=_pool(),
            channels=[64, 192, 256],
            reductions=[4, 8, 16],
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
