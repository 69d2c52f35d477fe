"""The branches that the papers define, and the sets they combine them in.

A set is written as a sum, one table row each; users write their own the same way:

    build_block(spec, "kxk+1x1+asym+avg+identity")      # ACB and DBB and RepVGG in one
    build_block(spec, "kxk*4+1x1+identity")             # four parallel KxK branches

A new branch is one function `spec, factory → {name: module}` in `BRANCHES`; a new block is one row in `BRANCH_SETS`.
"""

import difflib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import nn

from zoo.reparam.block import MultiBranchConv2d, inner_spec
from zoo.reparam.layers import AveragePool2d, BatchNormPad2d, IdentityConv2d, Window2d
from zoo.reparam.spec import ConvSpec, Pair

Branches = dict[str, nn.Module]
Factory = dict[str, Any]
"""`device` and `dtype` for the layers."""

BRANCH_SETS: dict[str, str] = {
    "plain": "kxk",
    "repvgg": "kxk+1x1+identity",  # 2101.03697, section 3.3
    "acb": "kxk+asym",  # 1908.03930, section 3.2
    "dbb": "kxk+mix1x1+avg+1x1_kxk",  # 2103.13425, figure 1; no 1x1 where depthwise
    "mobileone": "kxk+1x1+identity",  # 2206.04040, figure 3; S0 uses kxk*4
    "repghost": "kxk+identity",  # 2211.06088, figure 4e: the cheap operation and its fusion BN
    "repconv": "kxk+1x1+identity",  # YOLOv7, 2207.02696, section 4.1
    "repconvn": "kxk+1x1",  # the same without identity, beside residual or concatenation
}


def build_block(
    spec: ConvSpec, block: str = "repvgg", *, init_gamma: float | None = None, single_init: bool = False, **factory: Any
) -> MultiBranchConv2d:
    """Build the multi-branch block that stands in for a convolution and its BatchNorm.

    Args:
        spec: The convolution.
        block: A name in `BRANCH_SETS`, or a sum of names in `BRANCHES`; `*n` repeats a branch.
        init_gamma: Initial scale of every branch's last BatchNorm (ACNet on CIFAR: 1/3). Default 1.
        single_init: Start as the KxK branch alone: its scale is 1, that of all others 0 (an option of the
            official ACB and DBB; not what the papers' figures were made with).
        factory: `device` and `dtype` of the layers.

    Raises:
        ValueError: Unknown name; a branch twice; none of the branches exists for this convolution; `single_init`
            without a KxK branch.
    """
    branches: Branches = {}
    for name, times in _terms(block):
        for copy in range(times):
            made = BRANCHES[name](inner_spec(spec), factory)
            made = {f"{key}_{copy + 1}" if copy else key: branch for key, branch in made.items()}
            if both := branches.keys() & made.keys():
                raise ValueError(f"block {block!r} has two branches {min(both)!r}: repeat a branch by `*2`")
            branches |= made
    if single_init and "kxk" not in branches:
        raise ValueError(f"single_init starts as the 'kxk' branch alone, which block {block!r} does not have")
    _init_scales(branches, 1.0 if init_gamma is None else init_gamma, single_init)
    return MultiBranchConv2d(spec, branches)


def _terms(block: str) -> list[tuple[str, int]]:
    """(branch, how often) of every term in a branch set."""
    terms = []
    for term in BRANCH_SETS.get(block, block).split("+"):
        name, star, times = (part.strip() for part in term.partition("*"))
        if name not in BRANCHES:
            near = difflib.get_close_matches(block, [*BRANCH_SETS, *BRANCHES], n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join([*BRANCH_SETS, *BRANCHES])}"
            raise ValueError(f"unknown block {block!r}: {hint}")
        if star and not (times.isdecimal() and int(times)):
            raise ValueError(f"block {block!r}: `*` takes a positive number, not {times!r}")
        terms.append((name, int(times or 1)))
    return terms


def without_identity(block: str) -> str:
    """A branch set less its identity branches, for where a paper forbids them whatever the shapes."""
    return "+".join(term for term in BRANCH_SETS.get(block, block).split("+") if "identity" not in term)


def kxk(spec: ConvSpec, factory: Factory) -> Branches:
    """The convolution itself: bn(KxK(x))."""
    return {"kxk": conv_bn(spec, spec.kernel_size, factory)}


def pointwise(spec: ConvSpec, factory: Factory) -> Branches:
    """bn(1x1(x)) on the pixels under the centre tap. Does not exist where K is 1 already."""
    return {} if spec.kernel_size == (1, 1) else {"1x1": conv_bn(spec, (1, 1), factory)}


def mixing_pointwise(spec: ConvSpec, factory: Factory) -> Branches:
    """The 1x1 branch where it mixes channels: DBB leaves it out of depthwise convolutions."""
    return {} if spec.depthwise else pointwise(spec, factory)


def asymmetric(spec: ConvSpec, factory: Factory) -> Branches:
    """ACB's skeleton: bn(Kx1(x)) and bn(1xK(x)), cropped where the padding is smaller than K//2."""
    height, width = spec.kernel_size
    if height == 1 or width == 1:
        return {}
    return {"ver": conv_bn(spec, (height, 1), factory), "hor": conv_bn(spec, (1, width), factory)}


def identity(spec: ConvSpec, factory: Factory) -> Branches:
    """bn(x) on the pixels under the centre tap (a crop where padding is small). Exists for equal channels, stride 1."""
    if spec.in_channels != spec.out_channels or spec.stride != (1, 1):
        return {}
    return {"identity": chain(**window(spec, (1, 1)), bn=nn.BatchNorm2d(spec.out_channels, **factory))}


def average_pool(spec: ConvSpec, factory: Factory) -> Branches:
    """DBB's bn(avg(pad(bn(1x1(x))))); depthwise: bn(avg(x)), there being no channels to mix."""
    if spec.kernel_size == (1, 1):
        return {}
    pool = AveragePool2d(spec.out_channels, spec.kernel_size, spec.stride, spec.dilation)
    bn = nn.BatchNorm2d(spec.out_channels, **factory)
    if spec.depthwise:
        return {"avg": chain(**window(spec, spec.kernel_size), avg=pool, bn=bn)}
    conv = nn.Conv2d(spec.in_channels, spec.out_channels, 1, groups=spec.groups, bias=False, **factory)
    bn_pad = BatchNormPad2d(spec.out_channels, spec.padding, **factory)
    return {"avg": chain(conv=conv, bn_pad=bn_pad, avg=pool, bn=bn)}


def pointwise_kxk(spec: ConvSpec, factory: Factory) -> Branches:
    """DBB's bn(KxK(pad(bn(1x1(x))))). As many middle channels as input, twice that where depthwise."""
    if spec.depthwise:
        middle = 2 * spec.in_channels
        conv1 = nn.Conv2d(spec.in_channels, middle, 1, groups=spec.groups, bias=False, **factory)
    else:
        middle = spec.in_channels
        conv1 = IdentityConv2d(middle, spec.groups, **factory)
    bn_pad = BatchNormPad2d(middle, spec.padding, **factory)
    size, out_channels = spec.kernel_size, spec.out_channels
    conv2 = nn.Conv2d(middle, out_channels, size, spec.stride, 0, spec.dilation, spec.groups, False, **factory)
    return {"1x1_kxk": chain(conv1=conv1, bn_pad=bn_pad, conv2=conv2, bn=nn.BatchNorm2d(out_channels, **factory))}


BRANCHES: dict[str, Callable[[ConvSpec, Factory], Branches]] = {
    "kxk": kxk,
    "1x1": pointwise,
    "mix1x1": mixing_pointwise,
    "asym": asymmetric,
    "identity": identity,
    "avg": average_pool,
    "1x1_kxk": pointwise_kxk,
}


def conv_bn(spec: ConvSpec, kernel_size: Pair, factory: Factory, rate: int = 1) -> nn.Sequential:
    """bn(conv(x)) of a kernel centred in the block's: see `centred_conv`."""
    return chain(**centred_conv(spec, kernel_size, factory, rate), bn=nn.BatchNorm2d(spec.out_channels, **factory))


def centred_conv(spec: ConvSpec, size: Pair, factory: Factory, rate: int = 1, bias: bool = False) -> Branches:
    """A kernel centred in the block's, dilated `rate` times as far, behind a window of the input where it needs one."""
    extent = rate * (size[0] - 1) + 1, rate * (size[1] - 1) + 1
    left, right, top, bottom = spec.window(extent)
    stride, padding, before = spec.stride, (top, left), {}
    if size == (1, 1) and stride != (1, 1):  # reads the subsampled map: see Window2d
        stride, padding, before = (1, 1), (0, 0), window(spec, size, stride)
    elif left != right or top != bottom or min(padding) < 0:
        padding, before = (0, 0), window(spec, extent)
    channels, dilation = (spec.in_channels, spec.out_channels), (rate * spec.dilation[0], rate * spec.dilation[1])
    conv = nn.Conv2d(*channels, size, stride, padding, dilation, spec.groups, bias, **factory)
    return {**before, "conv": conv}


def window(spec: ConvSpec, kernel_size: Pair, stride: Pair = (1, 1)) -> dict[str, nn.Module]:
    """The part of the input under a smaller kernel, unless that is all of it."""
    padding = spec.window(kernel_size)
    return {"window": Window2d(padding, stride)} if any(padding) or stride != (1, 1) else {}


def chain(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _init_scales(branches: Branches, scale: float, single: bool) -> None:
    """Set the scale of every branch's last BatchNorm; of all but the KxK branch's to zero if `single`."""
    for name, branch in branches.items():
        *_, last = branch.children()
        if isinstance(last, nn.BatchNorm2d):
            nn.init.constant_(last.weight, scale if name == "kxk" or not single else 0.0)
