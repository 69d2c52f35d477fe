"""Merged training: a block of branches trains at about the cost of the one convolution that it becomes.

Once the mean and variance of the batch are known, a BatchNorm in training mode is affine, and so the block is one
convolution while it trains too: take the statistics, fold, convolve. The statistics of a branch K∗x + b, K being its
layers up to a BatchNorm, need not be taken from K∗x. With x̄ the mean image of the batch,

    mean      = the mean over the pixels of K∗x̄ + b                                      exact, as K∗ is linear
    variance  = the variance over the pixels of K∗x̄                                      exact
              + the mean square of K∗(x_n - x̄), over a part of the images,
                scaled by what the energy of x around x̄ is to that of the part's images  exact where K is one number
                                                                                         a channel (identity), else
                                                                                         estimated
so a branch convolves the part and the mean image, and only the merged kernel convolves the batch; 1x1 branches need not
convolve the part either, but share the covariance of its channels. If the part is the whole batch, outputs, gradients
and running statistics are those of training branch by branch.

The part is the first images of the batch, which must therefore be shuffled: a run that is resumed repeats it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.reparam.algebra import AffineKernel, add, compose, embed, identity, pad_output, per_channel
from zoo.reparam.block import MultiBranchConv2d, inner_spec
from zoo.reparam.fold import fold
from zoo.reparam.layers import BatchNormPad2d, Window2d

Total = Callable[[Tensor], Tensor]
"""The sum of a tensor over processes, with gradient."""
CACHE = 2**21
"""Bytes of a map that are worked on at a time on CPUs."""
TINY = 1e-30
"""An energy that is none: where the part has no energy at all, its ratio to the batch's is taken for 1."""


def merge(network: nn.Module, pixels: int, total: Total | None = None) -> None:
    """Let every block of a network train through its merged kernel, with statistics from so many pixels a channel.

    Parameters, their names, eval mode, `fuse` and deploying stay as they are. 0 goes back to branch by branch.

    Args:
        pixels: For the statistics, of each process.
        total: Sums over the processes that share their statistics, each with as many images; None: one process alone.

    Raises:
        ValueError: A block has a SyncBatchNorm, and no `total` is given.
    """
    for name, module in network.named_modules():
        if isinstance(module, MultiBranchConv2d):
            if total is None and any(isinstance(norm, nn.SyncBatchNorm) for norm in module.modules()):
                what = f"{name or 'the block'} has a SyncBatchNorm"
                raise ValueError(f"merge: {what}, whose statistics are of all processes: give `total`, their sum")
            module.__class__ = MergedConv2d if pixels else MultiBranchConv2d
            vars(module).update(pixels=pixels, total=total)


class MergedConv2d(MultiBranchConv2d):
    """A `MultiBranchConv2d` whose forward pass in training mode is one convolution: made by `merge`.

    It trains branch by branch, as its parent, where there is one branch only, and where the statistics would take more
    than half of the batch.

    A border between two layers of a branch (`BatchNormPad2d`) is filled with the response to a zero pixel under the
    batch's statistics, with gradient; the parent, as the official DBB, takes the running ones. Only so is a branch one
    convolution, the one that eval mode has: there too border and map share their statistics.
    """

    pixels: int
    total: Total | None

    def forward(self, x: Tensor) -> Tensor:
        part = self._part(x) if self.training else 0
        if not part:
            return super().forward(x)
        if self.pad_mode != "zeros":
            x = F.pad(x, (self.pad_x, self.pad_x, self.pad_y, self.pad_y), mode=self.pad_mode)
        spec = inner_spec(self.spec)
        x, sample = sample_of(x, part, self.total)
        with torch.autocast(x.device.type, enabled=False):
            branches = [_append(None, branch, sample) for branch in self.branches.values()]
            kernel = add([embed(branch, spec) for branch in branches])
        return _convolve(replace(kernel, weight=kernel.weight.to(x.dtype), bias=kernel.bias.to(x.dtype)), x)

    def _part(self, x: Tensor) -> int:
        """How many images to take statistics from; 0: train branch by branch."""
        height, width = x.shape[2] // self.spec.stride[0], x.shape[3] // self.spec.stride[1]
        part = max(2, math.ceil(self.pixels / max(1, height * width)))
        return part if len(self.branches) > 1 and 2 * part <= len(x) else 0


@dataclass(frozen=True)
class Sample:
    """What the statistics of a batch are taken from.

    Attributes:
        maps: (1 + part, channels, height, width): the mean image of the batch, then its first images less that.
        energies: (channels, 2), the mean square of the batch around its mean image, and that of the part.
        images: Number of images in the batch.
        dtype: Precision of the convolutions; statistics are float32 or better.
        total: Sums over processes, each of which has a sample of its own batch; None: this one is all.
        pointwise: What 1x1 kernels read, by padding, stride and groups (see `_pointwise`).
    """

    maps: Tensor
    energies: Tensor
    images: int
    dtype: torch.dtype
    total: Total | None
    pointwise: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def moments(self, kernel: AffineKernel) -> tuple[Tensor, Tensor, int | Tensor]:
        """Find mean and (biased) variance of every channel of kernel(x), and over how many pixels they are."""
        if kernel.kernel_size == (1, 1):
            rows = kernel.weight.flatten(1).unflatten(0, (kernel.groups, -1))
            pixels, covariance = self._pointwise(kernel)
            middle, within = (rows @ pixels).flatten(0, 1), ((rows @ covariance) * rows).sum(2).flatten()
        else:
            linear = replace(kernel, weight=kernel.weight.to(self.dtype), bias=None)
            answers = _convolve(linear, self.maps.to(self.dtype)).to(kernel.weight)
            middle, within = _first_and_energy(answers)
            middle = middle.flatten(1)
        mean = middle.mean(1)
        between = (middle - mean.detach()[:, None]).square().mean(1)  # the mean gets no gradient by it: that is 0
        # The energy of answers, if channels and taps did not correlate: that they do is seen in the part.
        taps = kernel.weight.square().sum((2, 3)).unflatten(0, (kernel.groups, -1))
        whole, part = (taps @ self.energies.unflatten(0, (kernel.groups, -1))).flatten(0, 1).unbind(1)
        variance = between + whole * ((within + TINY) / (part + TINY))
        mean, pixels = mean + kernel.bias, self.images * middle.shape[1]
        return (mean, variance, pixels) if self.total is None else _of_all(mean, variance, pixels, self.total)

    def _pointwise(self, kernel: AffineKernel) -> tuple[Tensor, Tensor]:
        """Find what 1x1 kernels read of the mean image, and how its channels covary in the part.

        All 1x1 kernels of a block share them, where each would convolve the part.

        Returns:
            (groups, channels, pixels) and (groups, channels, channels).
        """
        where = kernel.padding, kernel.stride, kernel.groups
        if where not in self.pointwise:
            maps = Window2d(kernel.padding, kernel.stride)(self.maps)
            if kernel.groups == kernel.in_channels:
                middle, energy = _first_and_energy(maps)
                covariance = energy[:, None, None]
            else:
                middle, part = maps[0], maps[1:]
                pixels = part.permute(0, 2, 3, 1).unflatten(3, (kernel.groups, -1)).flatten(0, 2)
                covariance = torch.einsum("pgi,pgj->gij", pixels, pixels) / len(pixels)
            self.pointwise[where] = middle.unflatten(0, (kernel.groups, -1)).flatten(2), covariance
        return self.pointwise[where]


def _of_all(mean: Tensor, variance: Tensor, pixels: int, total: Total) -> tuple[Tensor, Tensor, Tensor]:
    """Find the moments over all processes by those of each, all over as many pixels."""
    sums = total(torch.cat([mean, mean.new_ones(1)]))
    processes = sums[-1].detach()
    whole = sums[:-1] / processes
    return whole, total(variance + (mean - whole).square()) / processes, pixels * processes


def sample_of(x: Tensor, part: int, total: Total | None) -> tuple[Tensor, Sample]:
    """Take a sample of the first images of a batch; the batch that comes back carries the sample's gradient too."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    x, maps, energy = _Split.apply(x, part)
    return x, Sample(maps, torch.stack([energy, _first_and_energy(maps)[1]], 1), len(x), dtype, total)


def _convolve(kernel: AffineKernel, x: Tensor) -> Tensor:
    """kernel(x) without copies for its padding; a pointwise kernel reads the subsampled map (see `Window2d`)."""
    left, right, top, bottom = kernel.padding
    stride, padding = kernel.stride, (top, left)
    if kernel.kernel_size == (1, 1):
        x, stride, padding = Window2d(kernel.padding, kernel.stride)(x), (1, 1), (0, 0)
    elif (left, top) != (right, bottom) or min(padding) < 0:
        x, padding = F.pad(x, kernel.padding), (0, 0)
    return F.conv2d(x, kernel.weight, kernel.bias, stride, padding, kernel.dilation, kernel.groups)


class _Split(torch.autograd.Function):
    """(x, maps of the sample, energy of x): a Function, as autograd alone would make a map of x's size for each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, part: int) -> tuple[Tensor, Tensor, Tensor]:
        mean, energy = _mean_and_energy(x, part)
        maps = torch.cat([mean, x[:part] - mean])
        ctx.save_for_backward(x, mean)
        return x.view_as(x), maps, energy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_x: Tensor, to_maps: Tensor, to_energy: Tensor) -> tuple[Tensor, None]:
        x, mean = ctx.saved_tensors
        slope = (2 * x.shape[1] / x.numel() * to_energy)[:, None, None]
        to_mean = torch.empty_like(mean).copy_(to_maps[:1] - to_maps[1:].sum(0, keepdim=True))  # in x's memory layout
        shared = to_mean / len(x) - slope * mean
        # In place, as nobody else holds what a convolution answers: a new map is paid for by every page.
        for to_images, images in zip(_pieces(to_x), _pieces(x), strict=True):
            to_images.addcmul_(images, slope.to(x.dtype)).add_(shared)
        to_x[: len(to_maps) - 1] += to_maps[1:]
        return to_x, None


class _FirstAndEnergy(torch.autograd.Function):
    """The first map, and the mean square of the others: a Function, as autograd alone would go over them five times."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(maps)
        return maps[0].clone(), maps[1:].square().mean((0, 2, 3))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_first: Tensor, to_energy: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        to_maps = torch.empty_like(maps)
        to_maps[0] = to_first
        slope = 2 * maps.shape[1] / maps[1:].numel() * to_energy
        torch.mul(maps[1:], slope[:, None, None], out=to_maps[1:])
        return to_maps


_first_and_energy: Callable[[Tensor], tuple[Tensor, Tensor]] = _FirstAndEnergy.apply


def _mean_and_energy(x: Tensor, part: int) -> tuple[Tensor, Tensor]:
    """Find the mean image (1, channels, height, width) of a batch and the mean square (channels,) around it.

    Squares are taken around the part's mean image, which is near: around 0 they would cancel.
    """
    pilot = _over_images(torch.mean, x[:part])
    total, squares = torch.zeros_like(pilot), pilot.new_zeros(x.shape[1])
    for images in _pieces(x):
        total += images if len(images) == 1 else _over_images(torch.sum, images)
        squares += (images - pilot).square_().sum((0, 2, 3))
    mean = total / len(x)
    return mean, (squares / x[:, 0].numel() - (mean - pilot).square().mean((0, 2, 3))).clamp_min(0)


def _over_images(reduce: Any, x: Tensor) -> Tensor:
    """Reduce to one image in x's memory layout, which torch forgets, in float32 or better."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return reduce(x, 0, keepdim=True, dtype=dtype, out=torch.empty_like(x[:1], dtype=dtype))


def _pieces(x: Tensor) -> Sequence[Tensor]:
    """Cut a batch into what is best worked on at a time: on CPUs so many images as stay in the cache."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return [x]
    return x.split(max(1, CACHE // (x[0].numel() * x.element_size())))


def _append(kernel: AffineKernel | None, layer: nn.Module, sample: Sample) -> AffineKernel:
    """Fold a layer to what a branch is so far, each BatchNorm in training mode by statistics of the batch."""
    if isinstance(layer, nn.Sequential) and len(layer):
        for link in layer:
            kernel = _append(kernel, link, sample)
        assert kernel is not None
        return kernel
    norm = layer.bn if isinstance(layer, BatchNormPad2d) else layer
    if isinstance(norm, _BatchNorm) and norm.training:
        kernel = kernel or identity(sample.maps.shape[1], sample.maps)
        kernel = compose(kernel, per_channel(*_scale_shift(norm, *sample.moments(kernel))))
    else:
        channels = kernel.out_channels if kernel else sample.maps.shape[1]
        folded = fold(norm, channels, sample.maps.device)
        folded = replace(folded, weight=folded.weight.to(sample.maps), bias=folded.bias.to(sample.maps))
        kernel = compose(kernel, folded) if kernel else folded
    return pad_output(kernel, layer.border) if isinstance(layer, BatchNormPad2d) else kernel


def _scale_shift(norm: Any, mean: Tensor, variance: Tensor, pixels: int | Tensor) -> tuple[Tensor, Tensor]:
    """Write a BatchNorm as y = scale · x + shift by the batch's statistics, and let it keep them as running ones."""
    if norm.running_mean is not None:
        with torch.no_grad():
            norm.num_batches_tracked += 1
            momentum = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
            norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
            norm.running_var.lerp_((variance * (pixels / (pixels - 1))).to(norm.running_var), momentum)
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias
