"""Put blocks into any network: to train it from scratch, or to go on from the weights it has.

>>> model = zoo.convert(timm.create_model("resnet18"), "dbb")        # DBB-ResNet-18, branches as in the paper
>>> model = zoo.expand(timm.create_model("resnet18", pretrained=True), "acb", calibration=images)
"""

import copy
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn

from zoo.nearest import some
from zoo.network import proof_input, random_input, run_on_twin
from zoo.reparam.fold import activation_of
from zoo.reparam.spec import ConvSpec
from zoo.results.table import Column, Table
from zoo.surgery.declared_layers import declare_layers
from zoo.surgery.preserve import check_expandable, preserve
from zoo.surgery.rewrite import replace_module
from zoo.surgery.sites import OUTSIDE, Blocks, Left, Rule, Site, describe, find_sites
from zoo.surgery.verify import prove_network

__all__ = ["ConvSpec", "ConvertReport", "Left", "Replaced", "convert", "convert_with_report", "expand"]

Calibration = Tensor | Iterable[Tensor]


@dataclass(frozen=True)
class Replaced:
    """A convolution and the block in its place; `norm` is the BatchNorm that went into the block, if any."""

    name: str
    layer: str
    norm: str | None
    block: str
    branches: list[str]


@dataclass(frozen=True)
class ConvertReport:
    """The blocks that `convert` put in, and the convolutions it left, each with the reason."""

    replaced: list[Replaced]
    left: list[Left]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def table(self) -> str:
        """For reading: one line a block, then one a reason for which convolutions stayed."""
        columns = [
            Column("convolution", lambda replaced: replaced.name),
            Column("kernel", lambda replaced: replaced.layer),
            Column("BatchNorm", lambda replaced: replaced.norm or "-"),
            Column("block", lambda replaced: f"{replaced.block}: {' + '.join(replaced.branches)}"),
        ]
        return "\n".join([Table(columns, self.replaced).text(), *_grouped(self.left)])


def convert(
    model: nn.Module,
    block: Blocks = "dbb",
    where: str | Rule | None = None,
    *,
    init: Literal["paper", "preserve"] = "paper",
    example: Tensor | None = None,
    calibration: Calibration | None = None,
    init_gamma: float | None = None,
    single_init: bool = False,
) -> nn.Module:
    """A copy of a network with blocks in place of convolutions: see `convert_with_report`."""
    return convert_with_report(
        model,
        block,
        where,
        init=init,
        example=example,
        calibration=calibration,
        init_gamma=init_gamma,
        single_init=single_init,
    )[0]


def expand(
    model: nn.Module,
    block: Blocks = "dbb",
    where: str | Rule | None = None,
    *,
    example: Tensor | None = None,
    calibration: Calibration | None = None,
) -> nn.Module:
    """Give a trained or deployed network branches, its function unchanged: `convert(init="preserve")`.

    In eval mode the outputs are equal: proven, each block to 1e-9 in float64, the network to its rounding noise.
    The first training step starts from the plain network's loss, and every branch learns from there.

    Args:
        model: Any network with weights, deployed or not. It is not changed.
        block, where, example: See `convert_with_report`.
        calibration: Images like those of the training to come, one batch or several. By default random ones:
            eval mode is as exact, the first training step less alike.

    Raises:
        ValueError: As `convert_with_report`; the network is on the meta device; `calibration` yields no images, or
            something else beside them.
        EquivalenceError: A block or the network differs; names it.
    """
    return convert(model, block, where, init="preserve", example=example, calibration=calibration)


def convert_with_report(
    model: nn.Module,
    block: Blocks = "dbb",
    where: str | Rule | None = None,
    *,
    init: Literal["paper", "preserve"] = "paper",
    example: Tensor | None = None,
    calibration: Calibration | None = None,
    init_gamma: float | None = None,
    single_init: bool = False,
) -> tuple[nn.Module, ConvertReport]:
    """Copy a network and replace convolutions, with the BatchNorm that each feeds, by multi-branch blocks.

    Which BatchNorm a convolution feeds is found in its graphs (`zoo.surgery.pairs`); an activation
    fused with it stays in its place. A convolution without one is replaced too: the branches bring their own,
    and their shifts stand in for its bias. Device, dtype, training mode and `requires_grad` are those of the
    convolution; ε, momentum, synchronisation and freezing those of the BatchNorm.

    Args:
        model: Any network. It is not changed.
        block: A branch set for all (see `build_block`), or {pattern on names: branch set}: the first match.
        where: Default: ACNet's and DBB's rule, every K×K convolution with 1 < K < 7. A pattern on names
            (`"layer4.*"`) narrows it; a function (name, spec) → bool replaces it.
        init: "paper": fresh branches as their papers initialise them; the replaced layers' weights are dropped.
            "preserve": the function stays as it is, see `expand`.
        example: Images (N, C, H, W) for tracing; by default random ones of the size the network declares.
        calibration: Only with "preserve".
        init_gamma, single_init: Only with "paper": see `build_block`.

    Raises:
        ValueError: Unknown block; nothing to replace; a network that does not run on `example`, before or after
            (it reads a convolution's weight itself); a block that nothing can be expanded into; arguments of the
            other `init`.
        EquivalenceError: "preserve" failed its proof.
    """
    _check_init(model, init, calibration, init_gamma is not None or single_init)
    example = proof_input(model) if example is None else example
    converted = copy.deepcopy(model)
    inits = {"init_gamma": init_gamma, "single_init": single_init}
    sites, left = find_sites(converted, block, where, example, **inits)
    if not sites:
        raise ValueError(f"nothing to convert in {type(model).__name__}: {_reasons(left)}")
    if init == "preserve":
        for site in sites:
            check_expandable(site)
            _set_eps(site)
        preserve(copy.deepcopy(model), sites, _batches(calibration, example))
    for site in sites:
        converted = replace_module(converted, site.conv, _finish(site))
        if site.norm_name:
            converted.set_submodule(site.norm_name, activation_of(site.norm))
    declare_layers(converted)
    _check_runs(converted, example)
    if init == "preserve" and not example.is_meta:
        prove_network(copy.deepcopy(model).eval(), copy.deepcopy(converted).eval(), example)
    replaced = [Replaced(s.name, describe(s.conv), s.norm_name, s.block_name, list(s.block.branches)) for s in sites]
    return converted, ConvertReport(replaced, left)


def _check_init(model: nn.Module, init: str, calibration: Calibration | None, scaled: bool) -> None:
    if init not in ("paper", "preserve"):
        raise ValueError(f"init={init!r}: 'paper' starts branches afresh, 'preserve' keeps the network's function")
    if init == "preserve" and scaled:
        raise ValueError("init_gamma and single_init are of init='paper': 'preserve' computes every scale itself")
    if init == "preserve" and any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("init='preserve' keeps a function that a network on the meta device, without weights, has not")
    if init == "paper" and calibration is not None:
        raise ValueError("calibration images are used by init='preserve' only")


def _batches(calibration: Calibration | None, example: Tensor) -> list[Tensor]:
    if calibration is None:
        return [random_input((8, *example.shape[1:]), example)]
    batches = [calibration] if isinstance(calibration, Tensor) else list(calibration)
    if not batches:
        raise ValueError("calibration holds no images (an iterator can be used only once)")
    if others := {type(batch).__name__ for batch in batches if not isinstance(batch, Tensor)}:
        raise ValueError(f"calibration takes batches of images, tensors, and got a {min(others)}: leave labels out")
    return batches


def _set_eps(site: Site) -> None:
    """Give the block's BatchNorms the ε and momentum of the one replaced."""
    for norm in site.block.modules():
        if isinstance(norm, nn.BatchNorm2d) and site.norm is not None:
            norm.eps = site.norm.eps
            norm.momentum = getattr(site.norm, "momentum", norm.momentum)


def _finish(site: Site) -> nn.Module:
    """The block with dtype, mode and kind of BatchNorm of what it replaces."""
    conv, norm = site.conv, site.norm
    _set_eps(site)
    block: nn.Module = site.block.to(conv.weight.dtype)
    block.train((conv if norm is None else norm).training).requires_grad_(conv.weight.requires_grad)
    if isinstance(norm, nn.SyncBatchNorm):
        return nn.SyncBatchNorm.convert_sync_batchnorm(block, norm.process_group)
    if norm is not None and not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return freeze_batch_norm_2d(block)
    return block


def _check_runs(converted: nn.Module, example: Tensor) -> None:
    try:
        run_on_twin(converted, example, lambda twin, images: twin(images))
    except AttributeError as error:
        raise ValueError(
            f"{type(converted).__name__} reads from a convolution what a block does not have ({error}): "
            "leave that convolution out with `where`"
        ) from error


def _reasons(left: list[Left]) -> str:
    """Every reason once, with the number of convolutions and the first; the rule's come last."""
    if not left:
        return "it has no convolutions"
    return "; ".join(_grouped(sorted(left, key=lambda item: item.reason == OUTSIDE)))


def _grouped(left: list[Left]) -> list[str]:
    names: dict[str, list[str]] = {}
    for item in left:
        names.setdefault(item.reason, []).append(item.name)
    return [f"{len(group)} left: {reason} ({some(group)})" for reason, group in names.items()]
