"""Give blocks the function of the convolutions whose place they take, with every branch alive.

A convolution W with its BatchNorm (γ, β, μ, σ²) is split into branches that sum to it,

    W x = W₀ x + Σ s·U x,        W₀ = W - Σ s·U,

where U is what an extra branch computes in its paper's initialisation, s a scale for each output channel, and
W₀ goes to the KxK branch. Each branch normalises its own part, so its BatchNorm has to undo that normalisation:
with d_z, d_u the standard deviations (√(variance + ε)) of W x and U x on calibration images,

    γ_u = γ s d_u / d_z,      running variance = d_u² (σ² + ε) / d_z² - ε,      β_u = 0, and β stays with W₀.

In eval mode every branch then scales by γ s / √(σ² + ε), whatever the calibration images were: the sum is exactly
the old convolution and BatchNorm. In training mode a branch answers γ s (U x - mean) / d_z, so the sum follows the
old BatchNorm's answer to the *same* batch, as far as the calibration images have its ratios of deviations d_u / d_z:
only the ratios matter. They are taken with the plain network normalising by the batch, as in its training.

A convolution without BatchNorm (a deployed network) gets the BatchNorm that is the identity on the calibration
images: γ = d_z, β = μ = mean.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from zoo.reparam.algebra import compose, per_channel
from zoo.reparam.block import MultiBranchConv2d, conv_of
from zoo.reparam.fold import kernel_of, norm_scale_shift
from zoo.surgery.sites import Site
from zoo.surgery.verify import difference

SHARE = 0.25
"""How large an extra branch starts, relative to the convolution it joins: in weight norm and in output
deviation, whichever is smaller. Of no paper: large enough to learn, small enough not to add noise."""


@dataclass(frozen=True)
class Moments:
    """The moments of a map over batches, each (channels,) float64.

    variance: as BatchNorm keeps it (over n - 1). batch_variance: as it normalises by it (over n).
    """

    mean: Tensor
    variance: Tensor
    batch_variance: Tensor


def check_expandable(site: Site) -> None:
    """Refuse a block without the branches that the construction needs.

    Raises:
        ValueError: No KxK branch, or a branch that does not end in a BatchNorm.
    """
    if "kxk" not in site.block.branches:
        raise ValueError(f"block {site.block_name!r} has no 'kxk' branch, which has to carry what the others do not")
    for name, branch in site.block.branches.items():
        if not isinstance(list(branch.children())[-1], nn.BatchNorm2d):
            raise ValueError(f"branch {name!r} does not end in a BatchNorm, which has to set its scale")


def preserve(model: nn.Module, sites: Sequence[Site], batches: Sequence[Tensor]) -> None:
    """Initialise the sites' blocks (in place, to float64) so that each computes what its convolution computed.

    Args:
        model: A copy of the network that the sites are of; its running statistics are not kept.
        batches: Calibration images, more than one value for each channel of the smallest map.

    Raises:
        EquivalenceError: A block does not equal its convolution in float64; names it.
    """
    _as_in_training(model)
    plain = {site.name: MomentRecorder(site.conv.out_channels, site.conv.weight) for site in sites}
    for site in sites:
        _reset(site.block)

    def see_branches(site: Site, x: Tensor, z: Tensor) -> None:
        plain[site.name].see(z)
        site.block(x)

    run_watched(model, {site.name: partial(see_branches, site) for site in sites}, batches)
    rest: dict[str, nn.Conv2d] = {}
    scales: dict[str, dict[str, Tensor]] = {}
    for site in sites:
        site.block.eval().double()
        scales[site.name] = _extra_scales(site, plain[site.name].moments())
        rest[site.name] = _take_rest(site, scales[site.name])

    recorders = {site.name: MomentRecorder(site.conv.out_channels, site.conv.weight) for site in sites}

    def see_rest(site: Site, x: Tensor, z: Tensor) -> None:
        recorders[site.name].see(rest[site.name](x))

    run_watched(model, {site.name: partial(see_rest, site) for site in sites}, batches)
    for site in sites:
        _set_norms(site, plain[site.name].moments(), recorders[site.name].moments(), scales[site.name])
        _prove(site)


class MomentRecorder:
    """The mean over batches of a map's mean and variance: what a training BatchNorm would see."""

    def __init__(self, channels: int, like: Tensor) -> None:
        self.norm = nn.BatchNorm2d(channels, momentum=None, affine=False).to(like.device, like.dtype)

    def see(self, x: Tensor) -> None:
        self.norm(x)
        self.values = x.numel() // x.shape[1]

    def moments(self) -> Moments:
        mean, variance = (statistic.double() for statistic in _running(self.norm))
        return Moments(mean, variance, variance * (1 - 1 / self.values))


def _running(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var


def _as_in_training(model: nn.Module) -> None:
    """Normalise by the batch as training does, so that its first step is what the statistics are of; no dropout."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
            module.train()


def _reset(block: MultiBranchConv2d) -> None:
    """Make every BatchNorm average the statistics of all batches to come."""
    block.train()
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None


def run_watched(
    model: nn.Module, watch: dict[str, Callable[[Tensor, Tensor], None]], batches: Iterable[Tensor]
) -> None:
    """Show every watched layer's input and output, batch by batch."""
    with torch.no_grad(), ExitStack() as hooks:
        for name, see in watch.items():
            layer = model.get_submodule(name)
            hooks.enter_context(layer.register_forward_hook(lambda _, args, output, see=see: see(args[0], output)))
        for images in batches:
            model(images)


def _extra_scales(site: Site, z: Moments) -> dict[str, Tensor]:
    """Choose t = s·d_u for every extra branch: the factor of its normalised output U x / d_u in the sum."""
    weight = site.conv.weight.double()
    deviation = (z.variance + _eps(site)).sqrt()
    with torch.no_grad():
        kernels = site.block.branch_kernels()
    kernels.pop("kxk")
    return {
        name: SHARE * torch.minimum(_channel_norm(weight) / _channel_norm(kernel.weight), deviation)
        for name, kernel in kernels.items()
    }


def _take_rest(site: Site, scales: dict[str, Tensor]) -> nn.Conv2d:
    """Give the KxK branch what the others leave of the kernel; the same as a convolution, for measuring it."""
    with torch.no_grad():
        kernels = site.block.branch_kernels()
        weight = site.conv.weight.double()
        for name, scale in scales.items():
            weight = weight - scale[:, None, None, None] * kernels[name].weight
        site.block.get_parameter("branches.kxk.conv.weight").copy_(weight)
    return conv_of(site.block.spec, kernel_of(weight, None), site.conv.weight.dtype)


def _set_norms(site: Site, z: Moments, rest: Moments, scales: dict[str, Tensor]) -> None:
    """Set the last BatchNorm of every branch, as the module's docstring has it."""
    eps = _eps(site)
    gamma, beta, mean, variance = _norm_of(site, z)
    bias = 0.0 if site.conv.bias is None else site.conv.bias.detach().double()
    spread = z.variance + eps
    with torch.no_grad():
        kernels = site.block.branch_kernels()
        centre = mean - bias
        for name, scale in scales.items():
            centre = centre + scale * kernels[name].bias  # the kernel's bias is -mean / d_u here
            norm = _last_norm(site, name)
            seen = _running(norm)[1] + eps
            own = (seen * (variance + eps) / spread - eps).clamp_min(0)
            _running(norm)[1].copy_(own)
            norm.weight.copy_(gamma * scale * (own + eps).sqrt() / (seen * (variance + eps)).sqrt())
        norm = _last_norm(site, "kxk")
        own = ((rest.variance + eps) * (variance + eps) / spread - eps).clamp_min(0)
        _running(norm)[0].copy_(centre)
        _running(norm)[1].copy_(own)
        norm.weight.copy_(gamma * (own + eps).sqrt() / (variance + eps).sqrt())
        norm.bias.copy_(beta)


def _norm_of(site: Site, z: Moments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """γ, β, μ, σ² of the BatchNorm behind a convolution; of the one that changes nothing if there is none."""
    norm = site.norm
    if norm is None:
        return (z.batch_variance + _eps(site)).sqrt(), z.mean, z.mean, z.batch_variance
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    return gamma, beta, mean, variance


def _prove(site: Site) -> None:
    """Compare the folded block with the folded convolution and BatchNorm in float64."""
    with torch.no_grad():
        plain = kernel_of(site.conv.weight, site.conv.bias, groups=site.conv.groups)
        if site.norm is not None:
            plain = compose(plain, per_channel(*norm_scale_shift(site.norm)))
        block = site.block.equivalent_kernel()
    got, wanted = (torch.cat([kernel.weight.flatten(), kernel.bias]) for kernel in (block, plain))
    difference(got, wanted, f"block {site.name!r}: expanded", "its convolution")


def _last_norm(site: Site, branch: str) -> nn.BatchNorm2d:
    norm = list(site.block.branches[branch].children())[-1]
    assert isinstance(norm, nn.BatchNorm2d)
    return norm


def _eps(site: Site) -> float:
    return _last_norm(site, "kxk").eps


def _channel_norm(weight: Tensor) -> Tensor:
    return weight.flatten(1).norm(dim=1).clamp_min(1e-30)
