"""Put one convolution in the place of a linear region, changing as little of the network as will do."""

import copy
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn

from zoo.network import random_input
from zoo.reparam.algebra import AffineKernel
from zoo.reparam.block import conv_of
from zoo.reparam.fold import NORM_LAYERS, activation_of
from zoo.reparam.spec import ConvSpec
from zoo.surgery.capture import Calls, Evaluator, Refuse, drop_unread, operation, trace_module
from zoo.surgery.linear import Term, does_nothing, term_of
from zoo.surgery.regions import Region, Search
from zoo.surgery.verify import difference


@dataclass(frozen=True)
class RegionProof:
    """One folded region: the layer's name, what it replaces, and max |layer - region| / max |region| in float64."""

    name: str
    layers: list[str]
    relative_error: float | None


@torch.no_grad()
def fold_region(
    region: Region, root: nn.Module, name: str, dtype: torch.dtype, refuse: Refuse, prove: bool
) -> tuple[nn.Module, RegionProof]:
    """Make the layer that a region becomes, and prove that it computes the same.

    Args:
        root: What the region's graph is of, with its weights.
        name: The layer's in the network.

    Raises:
        ValueError: The region is not linear after all; says why.
        EquivalenceError: The error exceeds `BLOCK_TOLERANCE`.
    """
    evaluator, source = Evaluator(region.graph, root, refuse), region.term.source
    terms = {source: Term(source, source.meta["shape"], evaluator.like)}
    for node in region.nodes:
        terms[node] = term_of(evaluator, node, {n: terms[n] for n in region.graph.inputs(node)})
    term = terms[region.nodes[-1]]
    error = _prove(evaluator, region, term, name) if prove else None
    layers = [region.graph.path(layer) for layer in region.layers]
    return layer_of(term, root, dtype), RegionProof(name, layers, error)


def conv_for(kernel: AffineKernel, dtype: torch.dtype) -> nn.Conv2d:
    """Make the `nn.Conv2d` that computes a kernel, which pads both sides alike."""
    left, right, top, bottom = kernel.padding
    assert (left, top) == (right, bottom)
    shape = kernel.in_channels, kernel.out_channels, kernel.kernel_size, kernel.stride, (top, left)
    return conv_of(ConvSpec(*shape, kernel.dilation, kernel.groups), kernel, dtype)


def layer_of(term: Term, root: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Make the layer that computes a term: an `nn.Conv2d`, or an `nn.Linear` where channels are last."""
    kernel = term.kernel
    assert kernel is not None
    if not (term.pads or term.of_tokens):
        return conv_for(kernel, dtype)
    if term.pads:
        layer, weight = copy.deepcopy(root.get_submodule(term.pads)), kernel.weight
    else:
        layer, weight = nn.Linear(kernel.in_channels, kernel.out_channels, device="meta"), kernel.weight[:, :, 0, 0]
    layer.weight, layer.bias = nn.Parameter(weight.to(dtype)), nn.Parameter(kernel.bias.to(dtype))
    return layer.eval()


def _prove(evaluator: Evaluator, region: Region, term: Term, name: str) -> float:
    """Compare a region with its kernel on random input in float64: max |kernel - region| / max |region|."""
    kernel, shape = term.kernel, term.source.meta["shape"]
    assert kernel is not None
    if len(shape) == 4 and not (term.pads or term.order or term.of_tokens):
        left, right, top, bottom = (max(0, -side) for side in kernel.padding)
        sizes = zip(kernel.kernel_size, kernel.dilation, kernel.stride, (top + bottom, left + right), strict=True)
        shape = (1, shape[1], *[d * (k - 1) + 5 + 2 * s + crop for k, d, s, crop in sizes])
    x = random_input(shape, evaluator.like)
    wanted = evaluator.value(region.nodes[-1], {term.source: x.clone()})
    got = layer_of(term, evaluator.module, torch.float64)(x)
    got = got.permute(term.order) if term.order else got
    return difference(got, wanted, f"region {name!r}: folded", "its layers")


def chain_of(region: Region) -> list[str]:
    """The layers of a region that is a chain of them (and permutations), first that which can take it over; else []."""
    graph = region.graph
    before = (region.term.source, *region.nodes)
    chained = all(graph.inputs(b) == [a] for a, b in zip(before, region.nodes, strict=False))
    if not chained or any(not graph.layer(node) and operation(node) != "permute" for node in region.nodes):
        return []
    modules = {name: graph.root.get_submodule(name) for name in region.layers}
    main = next((name for name, one in modules.items() if isinstance(one, nn.Conv2d | nn.Linear)), "")
    kind = nn.Linear if region.term.of_tokens else nn.Conv2d
    return [main, *(name for name in modules if name != main)] if isinstance(modules.get(main), kind) else []


def remove_layer(model: nn.Module, layer: nn.Module) -> None:
    """Put an identity, or a BatchNorm's activation, in the place of a layer that another has taken up."""
    if not does_nothing(layer):
        replace_module(model, layer, activation_of(layer) if isinstance(layer, NORM_LAYERS) else nn.Identity())


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put a module in another's place, under every name that one has; it may be the network itself."""
    if old is model:
        return new
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                setattr(parent, name, new)
    return model


def enclosing(region: Region) -> str:
    """The smallest module (its path in the graph) whose `forward` holds all of a region."""
    paths = [region.graph.around(node)[: -1 if node.op == "call_module" else None] for node in region.nodes]
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*paths, strict=False))
    return ["", *(level[0] for level in shared)][-1]


def signature(region: Region, path: str = "") -> tuple[str, ...]:
    """Recognise a region in another trace of the module at `path`, by what it calls."""
    calls = [
        str(n.target).removeprefix(path).strip(".") if n.op == "call_module" else str(n.target) for n in region.nodes
    ]
    return tuple(sorted(calls))


def within(path: str, regions: Sequence[Region], calls: Calls, refuse: Refuse, fold_all: bool) -> list[Region]:
    """Find regions again in a trace of the module at `path` in their graph, its other parts whole.

    Raises:
        ValueError: The regions are not to be found in the module by itself.
    """
    graph, prefix = regions[0].graph, f"{path}." if path else ""
    inside = {p.removeprefix(prefix) for r in regions for n in r.nodes for p in graph.around(n) if p.startswith(prefix)}
    twin = graph.twin.get_submodule(path)
    local, _ = trace_module(twin, graph.path(path), calls, lambda inner: inner not in inside)
    wanted = {signature(region, path) for region in regions}
    found = list(Search(local, refuse, lambda region: signature(region) in wanted, fold_all).regions())
    if not found:
        raise ValueError("not to be found in the module by itself")
    return found


def is_all_of_module(region: Region, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a layer can take the place of the region's whole module, which is called with such arguments."""
    nodes = region.graph.graph.nodes
    others = [node for node in nodes if node not in region.graph.constants and node not in region.nodes]
    output = next(iter(reversed(nodes)))
    alone = [node.op for node in others] == ["placeholder", "output"] and output.args[0] is region.nodes[-1]
    return alone and len(args) == 1 and not kwargs and not region.term.order


def name_for(region: Region, owner: nn.Module, taken: Collection[str]) -> str:
    """The name for a region's layer: that of its largest convolution; where it has none, one that is free."""
    layers = {name: owner.get_submodule(name) for name in region.layers}
    weights = {name: one.weight.numel() for name, one in layers.items() if isinstance(one, nn.Conv2d | nn.Linear)}
    names = (f"linear{i or ''}" for i in itertools.count())
    free = (name for name in names if name not in taken and not hasattr(owner, name))
    return max(weights, key=lambda name: weights[name]) if weights else next(free)


def rewrite_forward(owner: nn.Module, layers: Mapping[str, tuple[Region, nn.Module]]) -> fx.GraphModule:
    """A module that calls a layer of its own where each of some regions of its graph was.

    Args:
        owner: The module. It is given the layers, by name.

    Raises:
        ValueError: The size of a map inside a region is read.
        AttributeError: Its forward makes tensors, which only the trace of it holds.
    """
    (graph,) = {region.graph.graph for region, _ in layers.values()}
    for where, (region, _) in layers.items():
        with graph.inserting_before(region.nodes[-1]):
            call = graph.call_module(where, (region.term.source,))
            call = graph.call_method("permute", (call, *region.term.order)) if region.term.order else call
        region.nodes[-1].replace_all_uses_with(call)
        for node in reversed(region.nodes):
            if node.users:
                raise ValueError("the size of a map inside is read")
            graph.erase_node(node)
    drop_unread(graph)
    for node in graph.nodes:
        node.type = None  # annotations of the author's file mean nothing in generated code
        if node.op == "get_attr":
            attrgetter(str(node.target))(owner)  # raises, before anything is changed, for what tracing made
    for where, (_, layer) in layers.items():
        owner.set_submodule(where, layer)
    module = fx.GraphModule(owner, graph, type(owner).__name__)
    for key, value in vars(owner).items():
        if not key.startswith("_") and key not in vars(module):
            setattr(module, key, value)
    module.train(owner.training)
    return module
