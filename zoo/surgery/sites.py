"""Find the convolutions of a network that a block can stand in for, and say why the others stay."""

import fnmatch
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from zoo.network import names_of
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.branches import build_block
from zoo.reparam.foreign import Sum2d
from zoo.reparam.orepa import OnlineConv2d
from zoo.reparam.spec import ConvSpec
from zoo.surgery.capture import has_hooks
from zoo.surgery.pairs import pairs_and_calls

Rule = Callable[[str, ConvSpec], bool]
Blocks = str | Mapping[str, str]
"""One branch set for all convolutions, or {pattern on their names: branch set}; the first match counts."""

OUTSIDE = "outside the papers' rule, 1 < K < 7"
PADS_BY_SIZE = ("Conv2dSame", "Conv2dSameExport")  # timm's, of TensorFlow's weights


@dataclass(frozen=True)
class Site:
    """A convolution, the BatchNorm that alone reads its output (if there is one), and the block for both."""

    name: str
    conv: nn.Conv2d
    norm_name: str | None
    norm: Any  # one of fold.NORM_LAYERS or None; no class declares what those have in common
    block_name: str
    block: MultiBranchConv2d


@dataclass(frozen=True)
class Left:
    """A convolution that stays as it is, and why."""

    name: str
    layer: str
    reason: str


def papers_rule(name: str, spec: ConvSpec) -> bool:
    """ACNet's and DBB's rule: every K×K convolution with 1 < K < 7 (the longer side of a non-square one)."""
    return 1 < max(spec.kernel_size) < 7


def find_sites(
    model: nn.Module, block: Blocks, where: str | Rule | None, example: Tensor, **init: Any
) -> tuple[list[Site], list[Left]]:
    """Decide for every convolution of a network whether a block takes its place, and build the block.

    Args:
        model: Any network. It is not changed.
        block: See `Blocks`.
        where: A pattern on the name narrows `papers_rule`; a function of name and spec replaces it.
        example: Images to trace the network with.
        init: `init_gamma`, `single_init` of `build_block`.

    Raises:
        ValueError: Unknown block, a lazy layer without shape yet, or the network does not run on `example`.
    """
    blocks = {"*": block} if isinstance(block, str) else dict(block)
    for name in blocks.values():
        build_block(ConvSpec(1, 1, 3, padding=1), name)
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"{name} has no shape yet (lazy layer): run one batch through the network first")
    pairs, calls = pairs_and_calls(model, example)
    aliases = names_of(model)
    inside = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, MultiBranchConv2d))

    sites: list[Site] = []
    left: list[Left] = []
    for name, conv in model.named_modules():
        if not isinstance(conv, _ConvNd) or name.startswith(inside):
            continue
        found = _site(name, conv, model, pairs.get(name), _shared(name, calls, aliases[conv]), blocks, where, init)
        if isinstance(found, Site):
            sites.append(found)
        else:
            left.append(Left(name, describe(conv), found))
    return sites, left


def _site(
    name: str,
    conv: _ConvNd,
    model: nn.Module,
    norm_name: str | None,
    shared: str | None,
    blocks: dict[str, str],
    where: str | Rule | None,
    init: dict[str, Any],
) -> Site | str:
    """The site of one convolution, or the reason why it is none."""
    if not isinstance(conv, nn.Conv2d):
        return f"{type(conv).__name__} is not a two-dimensional convolution"
    try:
        spec = ConvSpec.of(conv)
    except ValueError as error:
        return str(error)
    if reason := _deselected(name, spec, where):
        return reason
    norm = model.get_submodule(norm_name) if norm_name else None
    if reason := _refuse_site(conv) or shared or refuse_norm(norm):
        return reason
    block_name = next((block for pattern, block in blocks.items() if fnmatch.fnmatchcase(name, pattern)), None)
    if block_name is None:
        return "no pattern of the given blocks matches its name"
    try:
        block = build_block(spec, block_name, **init, device=conv.weight.device, dtype=conv.weight.dtype)
    except ValueError as error:
        return str(error)
    if len(block.branches) == 1 and not any(isinstance(module, Sum2d | OnlineConv2d) for module in block.modules()):
        return f"block {block_name!r} adds no branch to such a convolution"
    return Site(name, conv, norm_name, norm, block_name, block)


def _deselected(name: str, spec: ConvSpec, where: str | Rule | None) -> str | None:
    if callable(where):
        return None if where(name, spec) else "not selected by the given rule"
    if not papers_rule(name, spec):
        return OUTSIDE
    if where is not None and not fnmatch.fnmatchcase(name, where):
        return f"does not match {where!r}"
    return None


def _refuse_site(conv: nn.Conv2d) -> str | None:
    """Give the reason why no block can take the place of a layer, although it is an `nn.Conv2d`."""
    if type(conv).__name__ in PADS_BY_SIZE:
        kind = type(conv).__name__
        return f"{kind} pads by the size of its input, unevenly: no Conv2d with fixed padding is equal"
    return refuse_conv(conv)


def refuse_conv(conv: nn.Conv2d) -> str | None:
    """Give the reason why an `nn.Conv2d` computes another convolution than its weight says, or has hooks."""
    if is_parametrized(conv) or any(f"weight{part}" in conv._parameters for part in ("_g", "_v", "_orig")):
        return "its weight is parametrized (weight norm, spectral norm, pruning): remove that first"
    kind = type(conv)
    stock = kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward
    if not stock and kind.__name__ not in PADS_BY_SIZE:
        return f"{kind.__name__} computes its convolution in a way of its own"
    return "has forward hooks, which would be lost" if has_hooks(conv) else None


def refuse_norm(norm: Any) -> str | None:
    """Give the reason why a BatchNorm cannot become a part of what feeds it."""
    if norm is None:
        return None
    if norm.running_mean is None:
        return "its BatchNorm keeps no running statistics (track_running_stats=False)"
    return "its BatchNorm has forward hooks, which would be lost" if has_hooks(norm) else None


def _shared(name: str, calls: Counter[str], names: list[str]) -> str | None:
    if len(names) > 1:
        return f"is one module under several names ({', '.join(names)})"
    if calls[name] > 1:
        return f"is called {calls[name]} times in one pass: each use would need BatchNorm statistics of its own"
    if calls[name] == 0:
        return "does not run in a forward pass in eval mode"
    return None


def describe(conv: _ConvNd) -> str:
    """One line: 3x3 stride=2 depthwise 32→32."""
    size = "x".join(map(str, conv.kernel_size))
    kind = "" if type(conv) is nn.Conv2d else f" {type(conv).__name__}"
    depthwise = conv.groups == conv.in_channels > 1
    groups = "" if conv.groups == 1 else " depthwise" if depthwise else f" groups={conv.groups}"
    stride = "" if set(conv.stride) == {1} else f" stride={conv.stride[0]}"
    return f"{size}{stride}{groups} {conv.in_channels}→{conv.out_channels}{kind}"
