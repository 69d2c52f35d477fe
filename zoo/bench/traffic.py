"""The memory traffic that a network cannot avoid, counted on the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.cost import run_on_twin

_PRODUCTS = (torch.ops.aten.convolution.default, torch.ops.aten.addmm.default, torch.ops.aten.mm.default)


class _Traffic(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _PRODUCTS:
            self.elements += result.numel() + sum(arg.numel() for arg in args if isinstance(arg, Tensor))
        return result


def traffic(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Elements that one forward pass must move at least: every convolution's and linear layer's operands and result.

    Activations, additions and normalisations count nothing, as an engine may fuse them; a cache that keeps a map from
    one layer to the next may beat the bound.

    Args:
        model: Any network; it is not changed.
        input_shape: (N, C, H, W).

    Raises:
        ValueError: The network does not run on such images.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return run_on_twin(model, like.new_zeros(input_shape), _count).elements


def _count(model: nn.Module, images: Tensor) -> _Traffic:
    with torch.no_grad(), _Traffic() as counter:
        model(images)
    return counter
