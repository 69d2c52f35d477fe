"""The terms of a graph's nodes, and the constants beside them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Node

from zoo.reparam.algebra import AffineKernel, compose
from zoo.surgery.capture import Graph

Refuse = Callable[[str], str | None]
"""The reason why the module of that name in the network must stay as it is, or None."""


@dataclass(frozen=True)
class Term:
    """A node as a linear function of another one, its source.

    shape: of the node. like: of the dtype and on the device of kernels. kernel: None for the identity. axis: of the
    node's channels, 1 or -1 (tokens: all kernels are 1x1); None if any will do. order: the axes that the kernel's
    answer is permuted to, where the source has its channels on the other axis. pads: the convolution (its path in the
    graph) in whose own way, reflected or by size, the source is padded. parts: those that the node divides the map
    into, which `shape` and `kernel` are of.
    """

    source: Node
    shape: torch.Size
    like: Tensor = field(compare=False)
    kernel: AffineKernel | None = None
    axis: int | None = None
    order: tuple[int, ...] = ()
    pads: str | None = None
    parts: tuple[Term, ...] = ()

    @property
    def of_tokens(self) -> bool:
        """Whether the source has its channels last."""
        return (self.axis == -1) != bool(self.order)

    def then(self, kernel: AffineKernel, axis: int = 1) -> Term:
        """Apply a kernel to the node, whose channels are on that axis: on 1 those of a map."""
        if axis == 1 and len(self.shape) != 4:
            raise ValueError("a function of something else than a map")
        if self.axis not in (None, axis):
            raise ValueError("channels are first in one layer and last in the next")
        return replace(self, kernel=kernel if self.kernel is None else compose(self.kernel, kernel), axis=axis)


class Evaluator:
    """Computes nodes with the modules and tensors of `root`: on a meta twin shapes alone, on the network values."""

    def __init__(self, graph: Graph, root: nn.Module, refuse: Refuse) -> None:
        self.graph, self.root, self.refuse = graph, root, refuse
        tensor = next((t for t in (*root.parameters(), *root.buffers())), torch.empty(0, device="cpu"))
        self.like = torch.empty(0, dtype=torch.float64, device=tensor.device)
        self.constants: dict[Node, Any] = {}

    @torch.no_grad()
    def value(self, node: Node, known: dict[Node, Any]) -> Any:
        """Compute a node in float64 from nodes whose values are known; these become more."""
        if node not in known:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.value(n, known))
            target: Any = node.target
            if node.op == "get_attr":
                known[node] = self._attribute(target)
            elif node.op == "call_module":
                known[node] = copy.deepcopy(self.root.get_submodule(target)).double()(*args, **kwargs)
            elif node.op == "call_method":
                known[node] = getattr(args[0], target)(*args[1:], **kwargs)
            else:
                known[node] = target(*args, **kwargs)
        return known[node]

    def _attribute(self, path: str) -> Any:
        try:
            value = attrgetter(path)(self.root)
        except AttributeError:  # tracing puts tensors that are no attributes on its root
            value = attrgetter(path)(self.graph.root)
            if value.is_meta and not self.like.is_meta:
                raise ValueError("a tensor that was computed while tracing") from None
        return value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value
