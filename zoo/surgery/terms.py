"""The terms of a graph's nodes, and the constants beside them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
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

    kernel: None for the identity. axis: of the node's channels, 1 or -1 (tokens: all kernels are 1x1); None if any
    will do. order: the axes that the kernel's answer is permuted to, where the source has its channels on the other
    axis. pads: the convolution (its path in the graph) in whose own way, reflected or by size, the source is padded.
    """

    source: Node
    kernel: AffineKernel | None = None
    axis: int | None = None
    order: tuple[int, ...] = ()
    pads: str | None = None

    @property
    def of_tokens(self) -> bool:
        """Whether the source has its channels last."""
        return (self.axis == -1) != bool(self.order)

    def then(self, kernel: AffineKernel, axis: int) -> Term:
        """Apply a kernel to the node."""
        if self.axis not in (None, axis):
            raise ValueError("channels are first in one layer and last in the next")
        return replace(self, kernel=kernel if self.kernel is None else compose(self.kernel, kernel), axis=axis)


class Evaluator:
    """Computes nodes with the modules and tensors of `root`: on a meta twin shapes alone, on the network values."""

    def __init__(self, graph: Graph, root: nn.Module, refuse: Refuse) -> None:
        self.graph, self.root, self.refuse = graph, root, refuse
        tensor = next((t for t in (*root.parameters(), *root.buffers())), torch.empty(0, device="cpu"))
        self.like = torch.empty(0, dtype=torch.float64, device=tensor.device)
        self._constants: dict[Node, Any] = {}

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

    def constant(self, values: Any) -> Any:
        """Compute what does not depend on the input: parameters, numbers, and collections and expressions of them.

        Raises:
            ValueError: It does depend on it.
        """

        def value(node: Node) -> Any:
            if node not in self.graph.constants:
                raise ValueError("depends on the input")
            return self.value(node, self._constants)

        return fx.map_arg(values, value)

    def _attribute(self, path: str) -> Any:
        try:
            value = attrgetter(path)(self.root)
        except AttributeError:  # tracing puts tensors that are no attributes on its root
            value = attrgetter(path)(self.graph.root)
            if value.is_meta and not self.like.is_meta:
                raise ValueError("a tensor that was computed while tracing") from None
        return value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value

    def vector(self, value: Any, shape: tuple[int, ...], axis: int) -> Tensor:
        """Read a constant beside a map as one number a channel.

        Raises:
            ValueError: It differs from pixel to pixel, or depends on the input.
        """
        constant = torch.as_tensor(self.constant(value), dtype=torch.float64, device=self.like.device)
        sizes = (1,) * (len(shape) - constant.dim()) + tuple(constant.shape)
        if len(sizes) != len(shape) or any(size > 1 for i, size in enumerate(sizes) if i != axis % len(shape)):
            raise ValueError("a constant that differs from pixel to pixel")
        return constant.flatten().expand(shape[axis])
