"""Which BatchNorm a convolution feeds, found by following the tensors of one forward pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from zoo.cost import run_on_twin
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.fold import is_plain_norm


class _Reads(TorchFunctionMode):
    """Counts the calls that read each tensor and make a new one (not those that ask for its shape)."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            read = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            self.count.update(read)
        return result


@dataclass(frozen=True)
class Trace:
    """What one forward pass in eval mode shows.

    Attributes:
        pairs: Name of a convolution or block → name of the BatchNorm that alone reads its output.
        calls: Name of a convolution, block or BatchNorm → how often it ran; 0 if it did not.
    """

    pairs: dict[str, str]
    calls: Counter[str]


def conv_norm_pairs(model: nn.Module, example: Tensor) -> dict[str, str]:
    """{name of a convolution or block: name of the BatchNorm that alone reads its output}: see `trace`."""
    return trace(model, example).pairs


def trace(model: nn.Module, example: Tensor) -> Trace:
    """Follow the output of every convolution through one forward pass.

    The very tensor object is followed from the one module to the other, so attribute names, order of
    definition and structure (residual, concatenated, pre-activation) do not matter. The pass runs in eval
    mode, on the meta device where the network allows it. A module used twice, or whose output is read by
    anything else or is itself an output of the network, is in no pair.

    Args:
        model: Any network. It is not changed.
        example: An input it accepts, (N, C, H, W).

    Raises:
        ValueError: The network does not run on `example`.
    """
    return run_on_twin(model, example, _trace)


def _trace(model: nn.Module, example: Tensor) -> Trace:
    calls: Counter[str] = Counter()
    reads = _Reads()
    made: dict[int, tuple[str, Tensor]] = {}  # holds the tensors, so that no id is used again
    fed: dict[str, tuple[str, Tensor]] = {}

    def after_conv(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            calls[name] += 1
            made[id(output)] = (name, output)
            reads.count[id(output)] = 0  # an id is that of an earlier, freed tensor too

        return hook

    def before_norm(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            calls[name] += 1
            if args and id(args[0]) in made:
                conv, tensor = made[id(args[0])]
                fed[conv] = (name, tensor)

        return hook

    inside = [f"{name}." for name, module in model.named_modules() if isinstance(module, MultiBranchConv2d)]
    for name, module in model.named_modules():
        if name.startswith(tuple(inside)):
            continue
        if isinstance(module, nn.Conv2d | MultiBranchConv2d):
            module.register_forward_hook(after_conv(name))
        elif is_plain_norm(module):
            module.register_forward_pre_hook(before_norm(name))
    with torch.no_grad(), reads:
        output = model(example)
    reads.count.update(id(leaf) for leaf in tree_leaves(output))
    pairs = {
        conv: norm
        for conv, (norm, tensor) in fed.items()
        if calls[conv] == calls[norm] == 1 and reads.count[id(tensor)] == 1
    }
    return Trace(pairs, calls)
