"""The proofs that `deploy` makes: each block in float64, the whole network against its own rounding noise."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from zoo.reparam.block import MultiBranchConv2d, conv_of, first_parameter

BLOCK_TOLERANCE = 1e-9
"""Largest relative error of a fold in float64; what is measured is near 1e-15."""
NOISE_FACTOR = 10.0
"""How many times its own rounding noise a deployed network may be off."""


class EquivalenceError(RuntimeError):
    """A deployed network does not compute what it computed in training structure."""


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) that a network declares in timm's `pretrained_cfg`; (3, 224, 224) if it does not."""
    cfg = getattr(model, "pretrained_cfg", None)
    channels, height, width = (cfg.get("input_size") if isinstance(cfg, dict) else None) or (3, 224, 224)
    return getattr(model, "in_chans", None) or channels, height, width


def example_input(model: nn.Module, batch_size: int = 2) -> Tensor:
    """Random images for a network, of its dtype and device.

    Half the declared size where that is large: a proof needs every layer, not every pixel. A network with one
    fixed size (`fixed_input_size` in its `pretrained_cfg`) gets that.
    """
    channels, height, width = input_size(model)
    cfg = getattr(model, "pretrained_cfg", None)
    if min(height, width) >= 192 and not (isinstance(cfg, dict) and cfg.get("fixed_input_size")):
        height, width = height // 2, width // 2
    return random_input((batch_size, channels, height, width), first_parameter(model))


def random_input(shape: Sequence[int], like: Tensor) -> Tensor:
    """The same random numbers every time, in the dtype and on the device of `like`; drawn on the CPU."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(shape, generator=generator, device="cpu").to(like)


def prove_block(block: MultiBranchConv2d, name: str = "") -> float:
    """max |convolution - branches| / max |branches| of one block in float64 on random input.

    Raises:
        EquivalenceError: The error exceeds `BLOCK_TOLERANCE`.
    """
    twin = copy.deepcopy(block).double()
    spec = block.spec
    reach = [d * (k - 1) + 1 + 2 * s for k, d, s in zip(spec.kernel_size, spec.dilation, spec.stride, strict=True)]
    x = random_input((1, spec.in_channels, *reach), first_parameter(twin)).double()
    with torch.no_grad():
        wanted, got = twin(x), conv_of(spec, twin.equivalent_kernel(), torch.float64)(x)
    error = relative_error(got, wanted)
    if not error <= BLOCK_TOLERANCE:
        raise EquivalenceError(f"block {name!r}: the folded convolution differs by {error:.1e} from its branches")
    return error


def prove_network(model: nn.Module, deployed: nn.Module, example: Tensor) -> tuple[float, float]:
    """(error, noise floor): both networks' outputs against those of `model` in float64, relative to the largest.

    The noise floor is the un-deployed network's own rounding error in the dtype it has (in float64, where nothing
    is exact enough to tell, that in float32 scaled down). A fixed tolerance would be the wrong test: deep SE
    networks amplify rounding a million times, deployed or not.

    Raises:
        EquivalenceError: The error exceeds `NOISE_FACTOR` times the noise floor.
    """
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(example.double())
        noise = relative_error(model(example), exact)
        error = relative_error(deployed(example), exact)
        epsilon = torch.finfo(example.dtype).eps
        if example.dtype == torch.float64:
            single = relative_error(copy.deepcopy(model).float()(example.float()), exact)
            noise = single * epsilon / torch.finfo(torch.float32).eps
    if not error <= NOISE_FACTOR * max(noise, epsilon):
        raise EquivalenceError(
            f"{type(model).__name__}: rewritten, it is off by {error:.1e}, its own rounding noise is {noise:.1e}"
        )
    return error, noise


def relative_error(got: object, wanted: object) -> float:
    """max |got - wanted| / max |wanted| over all tensors of an output (a tensor, list or dict of them).

    NaN if any of them has one: compare by `not error <= bound`.

    Raises:
        ValueError: The output holds no tensors, so there is nothing to compare.
    """
    errors = [
        ((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-300)).item()
        for a, b in zip(tree_leaves(got), tree_leaves(wanted), strict=True)
        if isinstance(a, Tensor)
    ]
    if not errors:
        raise ValueError("the network's output holds no tensors")
    return torch.tensor(errors, dtype=torch.float64, device="cpu").max().item()  # Python's max passes over NaN
