"""From the nodes of a graph to kernels: what a node computes of a node before it, where that is linear."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import jvp
from torch.fx import Node

from zoo.reparam.algebra import AffineKernel, add, align, compose, concatenate, identity, per_channel, regroup
from zoo.reparam.fold import is_plain_norm, kernel_of, norm_scale_shift
from zoo.reparam.spec import Pair, to_pair
from zoo.surgery.capture import Evaluator, has_hooks, operation

UNCHANGED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
"""Layers that do nothing in eval mode."""


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


def term_of(ev: Evaluator, node: Node, terms: Mapping[Node, Term]) -> Term:
    """Return a node's term, given those of its inputs, all of one source.

    The rule of what the node calls takes the same arguments, terms for maps and values for constants.

    Raises:
        ValueError: It is not linear in them, or not as one kernel; says why.
    """
    name = operation(node)
    rule = partial(_layer, ev, str(node.target)) if node.op == "call_module" else RULES.get(name)
    if rule is None:
        raise ValueError(f"{name or node.op} is not linear, or not known to be")
    inputs: dict[Node, Any] = {n: terms.get(n) or ev.value(n, ev.constants) for n in node.all_input_nodes}
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: inputs[n])
    term = rule(*args, **kwargs)
    return term if term.parts else replace(term, shape=node.meta["shape"])


def _layer(ev: Evaluator, target: str, *inputs: Any, **options: Any) -> Term:
    layer = ev.module.get_submodule(target)
    if len(inputs) != 1 or options or not isinstance(inputs[0], Term):
        raise ValueError("takes more than one input")
    (x,) = inputs
    if does_nothing(layer):
        return x
    if reason := ev.refuse(ev.traced.path(target)):
        raise ValueError(reason)
    if isinstance(layer, nn.Linear):
        if type(layer).forward is not nn.Linear.forward:
            raise ValueError(f"{type(layer).__name__} computes its product in a way of its own")
        return _product_with_matrix(x, layer.weight, layer.bias)
    if len(x.shape) != 4 and not (len(x.shape) == 2 and is_plain_norm(layer)):
        raise ValueError(f"{type(layer).__name__} of a tensor of {len(x.shape)} axes")
    try:
        kernel = ev.fold(layer, x.shape[1], x.like.device)
    except ValueError:
        if not isinstance(layer, nn.Conv2d) or x.axis is not None:
            raise
        return replace(x, kernel=kernel_of(layer.weight, layer.bias, groups=layer.groups), axis=1, pads=target)
    return x.then(kernel, _usual_axis(x))


def does_nothing(layer: nn.Module | None) -> bool:
    """Tell whether a layer is one of `UNCHANGED`, and neither hooks nor a `forward` of its own do more."""
    forwards = {kind.forward for kind in UNCHANGED}
    return isinstance(layer, UNCHANGED) and type(layer).forward in forwards and not has_hooks(layer)


def select(channels: int, chosen: Tensor, like: Tensor) -> AffineKernel:
    """x → x[:, chosen] of so many channels as a dense 1x1 convolution of zeros and ones."""
    weight = torch.eye(channels, dtype=like.dtype, device=like.device)[chosen.to(like.device)]
    return AffineKernel(weight[:, :, None, None], weight.new_zeros(len(weight)))


def _usual_axis(x: Term) -> int:
    """Where layers expect the channels of a tensor of so many axes."""
    return 1 if len(x.shape) == 4 else -1


def _same(x: Term, *args: Any, **kwargs: Any) -> Term:
    return x


def _dropout(input: Term, p: float = 0.5, training: bool = True, inplace: bool = False) -> Term:
    if training:
        raise ValueError("dropout that is active")
    return input


def _elementwise(compute: Callable[..., Tensor], *operands: Any, **options: Any) -> Term:
    """The sum of two maps, or x + c, c - x, x · c, x / c, -x with one number a channel.

    What is known to be s · x + t has t for its value and s for its derivative at zero.
    """
    maps = [x for x in operands if isinstance(x, Term)]
    if options or len({x.shape for x in maps}) > 1:
        raise ValueError("an operation that repeats a map along an axis, or weighs it")
    if len(maps) == 2 and compute in (torch.add, torch.sub):
        layout, kernels = _aligned(maps)
        if compute is torch.sub:
            kernels[1] = replace(kernels[1], weight=-kernels[1].weight, bias=-kernels[1].bias)
        return replace(layout, kernel=add(kernels))
    if len(maps) != 1 or (compute is torch.div and maps[0] is not operands[0]):
        raise ValueError("a product of two maps, or a division by one")
    (x,) = maps
    axis, shape = x.axis or _usual_axis(x), [1] * len(x.shape)
    shape[axis] = x.shape[axis]
    pixel = x.like.new_zeros(shape)
    known = [c if c is x else torch.as_tensor(c).to(pixel) for c in operands]
    ones = torch.ones_like(pixel)
    shift, scale = jvp(lambda at: compute(*(at if c is x else c for c in known)), (pixel,), (ones,))[:2]
    if shift.shape != pixel.shape:
        raise ValueError("a constant that differs from pixel to pixel")
    return x.then(per_channel(scale.flatten(), shift.flatten()), axis)


def _aligned(parts: list[Term]) -> tuple[Term, list[AffineKernel]]:
    """The layout that terms share, as a term without a kernel, and their kernels in one geometry."""
    axes = {x.axis for x in parts if x.axis is not None} or {_usual_axis(parts[0])}
    layouts = {replace(x, shape=parts[0].shape, kernel=None, axis=axis) for x in parts for axis in axes}
    if len(layouts) > 1:
        raise ValueError("maps with channels first and last, or padded in different ways")
    (axis,), (layout,) = axes, layouts
    return layout, align([x.kernel or identity(x.shape[axis], x.like) for x in parts])


def _concatenation(tensors: Any, dim: int = 0) -> Term:
    if not isinstance(tensors, tuple | list) or not all(isinstance(x, Term) for x in tensors):
        raise ValueError("a concatenation with something else")
    layout, kernels = _aligned(list(tensors))
    if dim not in ((1, -3) if layout.axis == 1 else (-1, len(layout.shape) - 1)):
        raise ValueError("a concatenation along another axis than the channels'")
    return replace(layout, kernel=concatenate([regroup(kernel, 1) for kernel in kernels]))


def _division(divide: Callable[..., tuple[Tensor, ...]], x: Term, how: Any, dim: int = 0) -> Term:
    """The parts that `chunk` and `split` make."""
    if len(x.shape) != 4 or dim not in (1, -3):
        raise ValueError("a split along another axis than the channels'")
    channels = torch.arange(x.shape[1], device="cpu")
    return replace(x, parts=tuple(_selection(x, chosen) for chosen in divide(channels, how)))


def _part(x: Term, index: Any) -> Term:
    """One of the parts of a division, or a slice x[:, channels, ::stride, ::stride]."""
    if x.parts:
        return x.parts[index]
    if len(x.shape) != 4:
        raise ValueError("a part of a tensor that is no map")
    index = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(side, slice) for side in index):
        raise ValueError("a part of a map other than a slice")
    images, channels, rows, columns = (*index, *[slice(None)] * (4 - len(index)))
    if images != slice(None) or any(side.start or side.stop is not None for side in (rows, columns)):
        raise ValueError("a part of the pixels")
    chosen = torch.arange(x.shape[1], device="cpu")[channels]
    return _selection(x, chosen, (rows.step or 1, columns.step or 1))


def _selection(x: Term, chosen: Tensor, stride: Pair = (1, 1)) -> Term:
    if not len(chosen):
        raise ValueError("a part without channels")
    channels = x.shape[1]
    kernel = identity(channels, x.like) if len(chosen) == channels else select(channels, chosen, x.like)
    return x.then(replace(kernel, stride=stride))


def _padding(input: Term, pad: Any, mode: str = "constant", value: float | None = None) -> Term:
    if mode != "constant" or value or len(pad) not in (2, 4):
        raise ValueError("padding other than by zeros around a map")
    left, right, top, bottom = (*pad, 0, 0)[:4]
    return input.then(replace(identity(input.shape[1], input.like), padding=(left, right, top, bottom)))


def _convolution(
    input: Term, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Term:
    if isinstance(padding, str):
        raise ValueError(f"padding={padding!r}")
    y, x = to_pair(padding)
    geometry = {"stride": to_pair(stride), "padding": (x, x, y, y), "dilation": to_pair(dilation), "groups": groups}
    return input.then(kernel_of(weight, bias, **geometry))


def _product_with_matrix(input: Term, weight: Tensor, bias: Tensor | None = None) -> Term:
    """A fully connected layer: a 1x1 convolution of tokens."""
    return input.then(kernel_of(weight[:, :, None, None], bias), -1)


def _normalisation(*args: Any, **kwargs: Any) -> Term:
    call = inspect.signature(F.batch_norm).bind(*args, **kwargs)
    call.apply_defaults()
    norm = SimpleNamespace(**call.arguments)
    if norm.training is not False:
        raise ValueError("normalisation by the statistics of the batch")
    return norm.input.then(per_channel(*norm_scale_shift(norm)), -1 if len(norm.input.shape) == 2 else 1)


def _flattened(input: Term, *axes: int, **named: int) -> Term:
    """Batch and tokens on one axis: what is computed for every token by itself is so there too."""
    shape = torch.empty(input.shape, device="meta").flatten(*axes, **named).shape
    if len(input.shape) != 3 or shape != (input.shape[:2].numel(), input.shape[2]):
        raise ValueError("flattening of other axes than batch and tokens")
    return replace(input, axis=-1)


def _restored(flat: Term, like: Term) -> Term:
    if (len(flat.shape), len(like.shape)) != (2, 3) or flat.shape[-1] != like.shape[-1]:
        raise ValueError("a change of shape")
    return flat


def _permutation(x: Term, *order: Any) -> Term:
    order = tuple(order[0]) if isinstance(order[0], tuple | list) else order
    before, after = {(0, 2, 3, 1): (1, -1), (0, 3, 1, 2): (-1, 1)}.get(order, (0, 0))
    if x.axis != before:
        raise ValueError("a permutation other than of channels first to last, or back")
    return replace(x, axis=after, order=() if x.order else order)


RULES: dict[str, Callable[..., Term]] = {
    **dict.fromkeys(("add", "iadd"), partial(_elementwise, torch.add)),
    **dict.fromkeys(("sub", "isub"), partial(_elementwise, torch.sub)),
    **dict.fromkeys(("mul", "imul", "multiply"), partial(_elementwise, torch.mul)),
    **dict.fromkeys(("div", "truediv", "itruediv"), partial(_elementwise, torch.div)),
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenation),
    **{"neg": partial(_elementwise, torch.neg), "contiguous": _same, "clone": _same, "dropout": _dropout},
    **{"chunk": partial(_division, torch.chunk), "split": partial(_division, torch.split), "getitem": _part},
    **{"pad": _padding, "conv2d": _convolution, "linear": _product_with_matrix, "batch_norm": _normalisation},
    **{"flatten": _flattened, "reshape_as": _restored, "permute": _permutation},
}
