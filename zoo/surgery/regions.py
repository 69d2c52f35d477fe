"""Wherever a network is linear, it is one convolution: find its linear regions, and choose which to fold.

A region is what lies between one map and another that is a linear function of it. Kernels are first computed on the
meta device: their shapes say what folding costs, before any weight is touched.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.reparam.fold import NORM_LAYERS
from zoo.surgery.capture import Evaluator, Graph, Refuse, operation
from zoo.surgery.linear import Term, does_nothing, term_of

FARTHEST = 24
"""How many maps back a region may reach."""


@dataclass(frozen=True)
class Region:
    """The nodes that one kernel replaces.

    term: what they compute, with a kernel on the device of the graph's twin.
    nodes: what lies between its source and its output, the last of them, in order; nothing else reads the others.
    """

    graph: Graph
    term: Term
    nodes: tuple[Node, ...]

    @property
    def layers(self) -> list[str]:
        """The layers of the region, by their paths in its graph."""
        return [layer for layer in dict.fromkeys(map(self.graph.layer, self.nodes)) if layer]


class Search:
    """The linear regions of one graph, on the meta device.

    Args:
        graph: Traced on a twin.
        refuse: Gives the reason why a module must stay as it is, or None.
        accept: Says whether a region may be chosen.
        fold_all: Fold also where parameters or MACs grow.
    """

    def __init__(self, graph: Graph, refuse: Refuse, accept: Callable[[Region], bool], fold_all: bool) -> None:
        self.graph, self.accept, self.fold_all = graph, accept, fold_all
        self.evaluator = Evaluator(graph, graph.root, refuse)
        self.terms: dict[Node, dict[Node, Term]] = {}
        self._best: dict[Node, Region | None] = {}
        self._refused: dict[Node, str] = {}
        for node in graph.graph.nodes:
            self.terms[node] = self._terms(node)

    def regions(self) -> Iterator[Region]:
        """The regions worth folding, from the last to the first."""
        nodes = self.graph.graph.nodes
        needed = {node for node in nodes if not node.users and node.op != "placeholder"}
        for node in reversed(nodes):
            if node not in needed:
                continue
            region = self.best(node)
            if region is None:
                needed.update(node.all_input_nodes)
            else:
                needed.add(region.term.source)
                yield region

    def _terms(self, node: Node) -> dict[Node, Term]:
        """A node as a function of itself and each of the maps before it that it is linear in, the nearest first."""
        shape, inputs = node.meta["shape"], self.graph.inputs(node)
        found = {} if shape is None else {node: Term(node, shape, self.evaluator.like)}
        if not inputs or node.op in ("placeholder", "output") or self.graph.unsafe & set(inputs):
            return found
        shared = set.intersection(*(set(self.terms[n]) for n in inputs))
        for source in sorted(shared, reverse=True)[:FARTHEST]:
            try:
                found[source] = term_of(self.evaluator, node, {n: self.terms[n][source] for n in inputs})
            except ValueError as error:
                self._refused.setdefault(node, str(error))
            except (RuntimeError, TypeError, LookupError, AttributeError):  # arguments that no rule expects
                continue
        return found

    def norms_left(self) -> Iterator[tuple[str, str]]:
        """The BatchNorms (by their path in the graph) that no region takes up, each with the reason."""
        for node in self.graph.graph.nodes:
            name = self.graph.layer(node)
            normalises = node.op == "call_module" or operation(node) == "batch_norm"
            if name and normalises and isinstance(self.graph.root.get_submodule(name), NORM_LAYERS):
                yield name, self._refused.get(node) or self._reason(node)

    def _reason(self, norm: Node) -> str:
        source = norm.all_input_nodes[0]
        if {source, norm} & self.graph.unsafe:
            return "its input or output is changed in place while something else reads it"
        if len(self.terms[source]) > 1 and len(source.users) > 1:
            return "what it normalises is read elsewhere too"
        after = [self._refused[user] for user in norm.users if user in self._refused]
        return f"next to it: {after[0]}" if after else "no linear layer beside it takes it up"

    def best(self, node: Node) -> Region | None:
        """The region that ends in a node and saves most: multiplications, then layers; the smallest of equal ones."""
        if node not in self._best:
            self._best[node] = None
            self._best[node] = self._choose(node)
        return self._best[node]

    def _choose(self, node: Node) -> Region | None:
        best, most = None, (0, 0)
        if operation(node) == "permute":
            return None
        for term in self.terms[node].values():
            if not self._is_layer(term) or (nodes := self._between(node, term.source)) is None:
                continue
            region = Region(self.graph, term, nodes)
            costly = [n for n in nodes if not self._is_free(n)]
            costs = [_cost(self.terms[n][self.graph.inputs(n)[0]]) for n in costly if self._has_weights(n)]
            weights, macs = (sum(each) for each in zip((0, 0), *costs, strict=True))
            weights_after, macs_after = _cost(term)
            if (weights_after > weights or macs_after > macs) and not self.fold_all:
                continue
            gains = macs - macs_after, len(costly) - 1
            saved = gains[::-1] if self.fold_all else gains
            if saved > most and self.accept(region):
                best, most = region, saved
        return best

    def _is_layer(self, term: Term) -> bool:
        """Tell whether a layer computes such a term: an `nn.Linear` where channels are last, else an `nn.Conv2d`."""
        kernel = term.kernel
        if kernel is None or term.parts or len(term.shape) != len(term.source.meta["shape"]):
            return False
        left, right, top, bottom = kernel.padding
        if term.pads:  # as that convolution, with other weights
            like = self.graph.root.get_parameter(f"{term.pads}.weight")
            return kernel.weight.shape == like.shape and kernel.stride == (1, 1) and not any(kernel.padding)
        if term.of_tokens:
            return kernel.kernel_size == kernel.stride == (1, 1) and kernel.groups == 1 and not any(kernel.padding)
        return left == right >= 0 and top == bottom >= 0

    def _between(self, output: Node, source: Node) -> tuple[Node, ...] | None:
        """The nodes from a source to an output, in order; None if anything else reads one of them."""
        found, stack = {output}, [output]
        while stack:
            new = {n for n in self.graph.inputs(stack.pop()) if n is not source} - found
            found |= new
            stack += new
        readers = {user for node in found - {output} for user in node.users if not user.meta.get("scalar")}
        return None if readers - found else tuple(sorted(found))

    def _is_free(self, node: Node) -> bool:
        """Tell whether a node costs nothing, as a BatchNorm does that the layer before it takes up."""
        layer = self.graph.root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, _BatchNorm) or operation(node) == "batch_norm":
            return self.best(node) is not None
        return does_nothing(layer) or operation(node) in ("permute", "contiguous", "dropout", "clone")

    def _has_weights(self, node: Node) -> bool:
        name = self.graph.layer(node)
        layer = self.graph.root.get_submodule(name) if name else None
        return isinstance(layer, (nn.Conv2d, nn.Linear, *NORM_LAYERS)) or operation(node) in ("conv2d", "linear")


def _cost(term: Term) -> tuple[int, int]:
    """Weights and multiplications of the layer that computes such a term."""
    weights = term.kernel.weight.numel() if term.kernel else 0
    return weights, weights * math.prod(term.shape[2:] if term.axis == 1 else term.shape[1:-1])
