"""The memory traffic that a network cannot avoid, counted on the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.cost import meta_twin

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
    """
    twin = meta_twin(model).eval()
    dtype = next((p.dtype for p in twin.parameters() if p.is_floating_point()), torch.float32)
    with torch.no_grad(), _Traffic() as counter:
        twin(torch.empty(*input_shape, dtype=dtype, device="meta"))
    return counter.elements
