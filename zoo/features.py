"""A network cut to its feature maps, in the manner of timm's `features_only`."""

from collections.abc import Sequence
from typing import Any

from timm.models._builder import pretrained_cfg_for_features
from timm.models._features import FeatureGetterNet, feature_take_indices
from torch import nn


def features(model: Any, out_indices: int | Sequence[int] | None) -> nn.Module:
    """Cut a network to its feature maps at the taps `out_indices`: a number is the last so many, None is all.

    Raises:
        ValueError: It has no taps, or not these.
    """
    if not hasattr(model, "forward_intermediates"):
        raise ValueError(f"features_only: {type(model).__name__} has no feature taps")
    cfg = getattr(model, "pretrained_cfg", {})
    try:
        wanted = list(out_indices) if isinstance(out_indices, Sequence) else out_indices
        taps, _ = feature_take_indices(len(model.feature_info), wanted)
    except AssertionError as error:
        raise ValueError(f"out_indices={out_indices}: {error}") from error
    cut: Any = FeatureGetterNet(model, out_indices=tuple(taps))
    cut.pretrained_cfg = cut.default_cfg = pretrained_cfg_for_features(cfg)
    return cut
