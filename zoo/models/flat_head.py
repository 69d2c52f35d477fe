"""FlatHead: the classifier of networks from before global pooling, which read a flattened map of fixed size."""

# Without `from __future__ import annotations`: see `zoo.models.staged`.

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from zoo.models.staged import Common


class FlatHead(nn.Module):
    """fc(hidden(flatten(pool(x)))), in the manner of timm's `ClassifierHead`.

    The first layer reads a map of fixed size, which is what images of the network's own size give; other maps are
    averaged to it. Without pooling (`pool_type=""`) the head hands the map through.

    Args:
        in_channels, side: Of the map: in_channels x side x side.
        hidden: Widths of the hidden layers, each with a ReLU and dropout after it.
        common: What the network was asked for.
    """

    def __init__(self, in_channels: int, side: int, hidden: Sequence[int], common: Common) -> None:
        super().__init__()
        dd = common.dd
        if common.num_classes and not common.global_pool:
            raise ValueError("global_pool='' needs num_classes=0: the classifier reads a map of fixed size")
        self.num_features = hidden[-1]
        self.side = side
        self.global_pool = nn.AdaptiveAvgPool2d(side)
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten(1))
        features = in_channels * side * side
        for number, width in enumerate(hidden, 1):
            layers[f"fc{number}"] = nn.Linear(features, width, **dd)
            layers[f"fc{number}_act"] = nn.ReLU(inplace=True)
            layers[f"fc{number}_drop"] = nn.Dropout(common.drop_rate)
            features = width
        self.hidden = nn.Sequential(layers)
        self.reset(common.num_classes, common.global_pool, **dd)

    def reset(self, num_classes: int, pool_type: str | None = None, **dd: Any) -> None:
        """Set a fresh classifier (0: none); pooling on ("avg") or off ("")."""
        if pool_type is not None:
            if pool_type not in ("avg", ""):
                size = f"{self.side}x{self.side}"
                raise ValueError(f"global_pool={pool_type!r}: this head averages to {size} ('avg') or not at all ('')")
            self.pools = bool(pool_type)
        self.fc = nn.Linear(self.num_features, num_classes, **dd) if num_classes else nn.Identity()
        self.train(self.training)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if not self.pools:
            return x
        x = self.hidden(self.global_pool(x))
        return x if pre_logits else self.fc(x)
