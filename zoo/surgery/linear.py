"""From the nodes of a graph to kernels: what a node computes of a node before it, where that is linear."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.fx import Node

from zoo.reparam.algebra import AffineKernel, add, align, concatenate, identity, per_channel, regroup
from zoo.reparam.fold import fold, is_plain_norm, norm_scale_shift
from zoo.reparam.spec import to_pair
from zoo.surgery.capture import has_hooks, operation
from zoo.surgery.terms import Evaluator, Term

Terms = Mapping[Node, Term]

UNCHANGED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
"""Layers that do nothing in eval mode."""
PARTS = ("chunk", "split")
"""Functions that answer with several parts of a map."""


def term_of(ev: Evaluator, node: Node, terms: Terms) -> Term:
    """Return a node's term, given those of its inputs, all of one source.

    Raises:
        ValueError: It is not linear in them, or not as one kernel; says why.
    """
    name = operation(node)
    rule = _layer if node.op == "call_module" else RULES.get(name)
    if rule is None:
        raise ValueError(f"{name or node.op} is not linear, or not known to be")
    return rule(ev, node, terms)


def _layer(ev: Evaluator, node: Node, terms: Terms) -> Term:
    assert isinstance(node.target, str)
    layer = ev.root.get_submodule(node.target)
    if len(node.args) != 1 or node.kwargs or node.args[0] not in terms:
        raise ValueError("takes more than one input")
    x: Any = node.args[0]
    term, shape = terms[x], ev.graph.shapes[x]
    if does_nothing(layer):
        return term
    if reason := ev.refuse(ev.graph.path(node.target)):
        raise ValueError(reason)
    if isinstance(layer, nn.Linear):
        if type(layer).forward is not nn.Linear.forward:
            raise ValueError(f"{type(layer).__name__} computes its product in a way of its own")
        return term.then(_kernel(layer.weight, layer.bias), -1)
    if len(shape) != 4 and not (len(shape) == 2 and is_plain_norm(layer)):
        raise ValueError(f"{type(layer).__name__} of a tensor of {len(shape)} axes")
    try:
        kernel = fold(layer, shape[1], ev.like.device)
    except ValueError:
        if not isinstance(layer, nn.Conv2d) or term != Term(term.source):
            raise
        return replace(term, kernel=_kernel(layer.weight, layer.bias, groups=layer.groups), axis=1, pads=node.target)
    return term.then(kernel, 1 if len(shape) == 4 else -1)


def does_nothing(layer: nn.Module | None) -> bool:
    """Tell whether a layer is one of `UNCHANGED`, and neither hooks nor a `forward` of its own do more."""
    forwards = {kind.forward for kind in UNCHANGED}
    return isinstance(layer, UNCHANGED) and type(layer).forward in forwards and not has_hooks(layer)


def _kernel(weight: Tensor, bias: Tensor | None, **geometry: Any) -> AffineKernel:
    """The kernel of a convolution, or of a fully connected layer, which is a 1x1 convolution; in float64."""
    weight = weight.double() if weight.dim() == 4 else weight.double()[:, :, None, None]
    shift = weight.new_zeros(len(weight)) if bias is None else bias.double()
    return AffineKernel(weight, shift, unbiased=bias is None, **geometry)


def select(channels: int, chosen: Tensor, like: Tensor) -> AffineKernel:
    """x → x[:, chosen] of so many channels as a dense 1x1 convolution of zeros and ones."""
    weight = torch.eye(channels, dtype=like.dtype, device=like.device)[chosen.to(like.device)]
    return AffineKernel(weight[:, :, None, None], weight.new_zeros(len(weight)))


def _arguments(node: Node, *names: str) -> dict[str, Any]:
    """The arguments of a call by their names."""
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def _input(ev: Evaluator, x: Any, terms: Terms, *ranks: int) -> tuple[Term, tuple[int, ...]]:
    """Term and shape of what a function computes on: the map, of as many axes as one of `ranks`."""
    if x not in terms or len(ev.graph.shapes[x]) not in ranks:
        raise ValueError("a function of something else than a map")
    return terms[x], ev.graph.shapes[x]


def _same(ev: Evaluator, node: Node, terms: Terms) -> Term:
    if operation(node) == "dropout" and _arguments(node, "input", "p", "training").get("training", True):
        raise ValueError("dropout that is active")
    return terms[node.all_input_nodes[0]]


def _elementwise(ev: Evaluator, node: Node, terms: Terms) -> Term:
    """The sum of two maps, or x + c, c - x, x · c, x / c, -x with one number a channel.

    What is known to be s · x + t has t for its value and s for its derivative at zero.
    """
    compute = ELEMENTWISE[operation(node)]
    maps = [arg for arg in node.args if isinstance(arg, Node) and arg in terms]
    shape = ev.graph.shapes[node]
    if node.kwargs or any(ev.graph.shapes[x] != shape for x in maps):
        raise ValueError("an operation that repeats a map along an axis, or weighs it")
    if len(maps) == 2 and compute in (torch.add, torch.sub):
        layout, kernels = _aligned(ev, [terms[x] for x in maps], shape)
        if compute is torch.sub:
            kernels[1] = replace(kernels[1], weight=-kernels[1].weight, bias=-kernels[1].bias)
        return replace(layout, kernel=add(kernels))
    if len(maps) != 1 or (compute is torch.div and node.args[0] not in terms):
        raise ValueError("a product of two maps, or a division by one")
    term = terms[maps[0]]
    axis = term.axis or _usual_axis(shape)
    constants = {i: ev.vector(arg, shape, axis) for i, arg in enumerate(node.args) if arg is not maps[0]}
    zeros = ev.like.new_zeros(shape[axis])

    def at(x: Tensor) -> Tensor:
        return compute(*(constants.get(i, x) for i in range(len(node.args))))

    shift, scale = jvp(at, (zeros,), (torch.ones_like(zeros),))[:2]
    return term.then(per_channel(scale, shift), axis)


def _usual_axis(shape: tuple[int, ...]) -> int:
    return 1 if len(shape) == 4 else -1


def _aligned(ev: Evaluator, parts: list[Term], shape: tuple[int, ...]) -> tuple[Term, list[AffineKernel]]:
    """The layout that terms share, as a term without a kernel, and their kernels in one geometry."""
    axes = {term.axis for term in parts if term.axis is not None} or {_usual_axis(shape)}
    layouts = {replace(term, kernel=None, axis=axis) for term in parts for axis in axes}
    if len(layouts) > 1:
        raise ValueError("maps with channels first and last, or padded in different ways")
    layout = layouts.pop()
    channels = ev.graph.shapes[layout.source][layout.axis or 1]
    kernels = [identity(channels, ev.like) if term.kernel is None else term.kernel for term in parts]
    return layout, align(kernels)


def _concatenation(ev: Evaluator, node: Node, terms: Terms) -> Term:
    arguments = _arguments(node, "tensors", "dim")
    parts: Any = arguments["tensors"]
    if not isinstance(parts, tuple | list) or any(part not in terms for part in parts):
        raise ValueError("a concatenation with something else")
    layout, kernels = _aligned(ev, [terms[part] for part in parts], ev.graph.shapes[node])
    if arguments.get("dim", 0) not in ((1, -3) if layout.axis == 1 else (-1, len(ev.graph.shapes[node]) - 1)):
        raise ValueError("a concatenation along another axis than the channels'")
    return replace(layout, kernel=concatenate([regroup(kernel, 1) for kernel in kernels]))


def _part(ev: Evaluator, node: Node, terms: Terms) -> Term:
    """A slice x[:, channels, ::stride, ::stride], or one of the parts that `chunk` and `split` make."""
    whole: Any = node.args[0]
    index: Any = node.args[1]
    in_parts = operation(whole) in PARTS
    term, shape = terms[whole], ev.graph.shapes[whole.args[0] if in_parts else whole]
    if len(shape) != 4:
        raise ValueError("a part of a tensor that is no map")
    chosen, stride = torch.arange(shape[1], device="cpu"), (1, 1)
    if in_parts:
        arguments: Any = ev.constant({"dim": 0} | _arguments(whole, "input", "how", "dim") | {"input": None})
        if arguments["dim"] not in (1, -3):
            raise ValueError("a split along another axis than the channels'")
        chosen = getattr(chosen, operation(whole))(arguments["how"])[int(index)]
    else:
        index = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(side, slice) for side in index):
            raise ValueError("a part of a map other than a slice")
        images, channels, rows, columns = (*index, *[slice(None)] * (4 - len(index)))
        if images != slice(None) or any(side.start or side.stop is not None for side in (rows, columns)):
            raise ValueError("a part of the pixels")
        chosen, stride = chosen[ev.constant(channels)], ev.constant((rows.step or 1, columns.step or 1))
    if not len(chosen):
        raise ValueError("a part without channels")
    kernel = identity(shape[1], ev.like) if len(chosen) == shape[1] else select(shape[1], chosen, ev.like)
    return term.then(replace(kernel, stride=stride), 1)


def _padding(ev: Evaluator, node: Node, terms: Terms) -> Term:
    arguments = _arguments(node, "input", "pad", "mode", "value")
    term, shape = _input(ev, arguments["input"], terms, 4)
    sides: Any = ev.constant(arguments["pad"])
    zeros = arguments.get("mode", "constant") == "constant" and not arguments.get("value")
    if not zeros or len(sides) not in (2, 4):
        raise ValueError("padding other than by zeros around a map")
    left, right, top, bottom = (*sides, 0, 0)[:4]
    return term.then(replace(identity(shape[1], ev.like), padding=(left, right, top, bottom)), 1)


def _convolution(ev: Evaluator, node: Node, terms: Terms) -> Term:
    defaults = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    arguments = defaults | _arguments(node, "input", "weight", *defaults)
    term, _ = _input(ev, arguments.pop("input"), terms, 4)
    rest: Any = ev.constant(arguments)
    if isinstance(rest["padding"], str):
        raise ValueError(f"padding={rest['padding']!r}")
    (y, x), stride, dilation = (to_pair(rest[name]) for name in ("padding", "stride", "dilation"))
    geometry = {"stride": stride, "padding": (x, x, y, y), "dilation": dilation, "groups": rest["groups"]}
    return term.then(_kernel(rest["weight"], rest["bias"], **geometry), 1)


def _product_with_matrix(ev: Evaluator, node: Node, terms: Terms) -> Term:
    arguments = _arguments(node, "input", "weight", "bias")
    if (x := arguments.pop("input")) not in terms:
        raise ValueError("a map that is a matrix")
    rest: Any = ev.constant(arguments)
    return terms[x].then(_kernel(rest["weight"], rest.get("bias")), -1)


def _normalisation(ev: Evaluator, node: Node, terms: Terms) -> Term:
    names = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    arguments = {"weight": None, "bias": None, "training": False, "eps": 1e-5} | _arguments(node, "input", *names)
    term, shape = _input(ev, arguments.pop("input"), terms, 2, 4)
    norm = SimpleNamespace(**ev.constant(arguments))
    if norm.training is not False:
        raise ValueError("normalisation by the statistics of the batch")
    return term.then(per_channel(*norm_scale_shift(norm)), _usual_axis(shape))


def _flattened(ev: Evaluator, node: Node, terms: Terms) -> Term:
    """Batch and tokens on one axis: what is computed for every token by itself is so there too."""
    term, (images, tokens, channels) = _input(ev, node.args[0], terms, 3)
    if ev.graph.shapes[node] != (images * tokens, channels):
        raise ValueError("flattening of other axes than batch and tokens")
    return replace(term, axis=-1)


def _permutation(ev: Evaluator, node: Node, terms: Terms) -> Term:
    term, _ = _input(ev, node.args[0], terms, 4)
    order: Any = node.args[1] if isinstance(node.args[1], tuple | list) else node.args[1:]
    before, after = {(0, 2, 3, 1): (1, -1), (0, 3, 1, 2): (-1, 1)}.get(tuple(order), (0, 0))
    if term.axis != before or node.kwargs:
        raise ValueError("a permutation other than of channels first to last, or back")
    return replace(term, axis=after, order=() if term.order else tuple(order))


def _restored(ev: Evaluator, node: Node, terms: Terms) -> Term:
    flat, like = node.args
    term, (_, channels) = _input(ev, flat, terms, 2)
    if _input(ev, like, terms, 3)[1][-1] != channels:
        raise ValueError("a change of shape")
    return term


ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(("add", "iadd"), torch.add),
    **dict.fromkeys(("sub", "isub"), torch.sub),
    **dict.fromkeys(("mul", "imul", "multiply"), torch.mul),
    **dict.fromkeys(("div", "truediv", "itruediv"), torch.div),
    "neg": torch.neg,
}
RULES: dict[str, Callable[[Evaluator, Node, Terms], Term]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(("contiguous", "dropout", "clone", *PARTS), _same),
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenation),
    **{"getitem": _part, "pad": _padding, "conv2d": _convolution, "linear": _product_with_matrix},
    **{"batch_norm": _normalisation, "flatten": _flattened, "reshape_as": _restored, "permute": _permutation},
}
