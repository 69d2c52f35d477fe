"""AlexNet (Krizhevsky et al. 2012; the one-tower widths of arXiv 1404.5997) with a BatchNorm after every convolution.

    conv = relu(bn(KxK))
    conv 11x11 / 4, pool, conv 5x5, pool, conv 3x3, conv 3x3, conv 3x3, pool, fc 4096, fc 4096, fc

The baseline of ACNet (arXiv 1908.03930) and DBB (arXiv 2103.13425): 64, 192, 384, 384 and 256 channels (torchvision's
fourth convolution has 256, and it has no BatchNorms).
"""

from typing import Any

import torch
from torch import nn

from zoo.models.flat_head import FlatHead
from zoo.models.staged import Common, StagedNetwork, conv_bn
from zoo.reparam.branches import chain
from zoo.reparam.spec import ConvSpec


class AlexNet(StagedNetwork):
    """AlexNet with BatchNorm. Taps are the maps before each pooling; their strides are 4, 8 and 16.

    Args:
        drop_rate, timm: As in timm, see `zoo.models.staged.Common`; global_pool is "avg", or "" for the unpooled map.
    """

    def __init__(self, *, drop_rate: float = 0.5, **timm: Any) -> None:
        common = Common(drop_rate=drop_rate, **timm)
        specs = [
            ConvSpec(common.in_chans, 64, 11, 4, 2),
            ConvSpec(64, 192, 5, 1, 2),
            ConvSpec(192, 384, 3, 1, 1),
            ConvSpec(384, 384, 3, 1, 1),
            ConvSpec(384, 256, 3, 1, 1),
        ]
        conv1, conv2, conv3, conv4, conv5 = (conv_bn(spec, common.dd, relu=True) for spec in specs)
        super().__init__(
            conv1,
            [
                chain(pool=nn.MaxPool2d(3, 2), conv2=conv2),
                chain(pool=nn.MaxPool2d(3, 2), conv3=conv3, conv4=conv4, conv5=conv5),
            ],
            common,
            head=FlatHead(256, 6, (4096, 4096), common),
            final=nn.MaxPool2d(3, 2),
            channels=[64, 192, 256],
            strides=[4, 2, 2],
        )

    @torch.jit.ignore()
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """A group a convolution, or a stage if `coarse`."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.\d+\.conv(\d+)"}
