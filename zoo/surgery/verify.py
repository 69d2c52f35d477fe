"""The proofs that `deploy` makes: each block in float64, the whole network against its own rounding noise."""

import copy
import math

import torch
from torch import Tensor, nn

from zoo.compare import NOISE_FACTOR, in_float64, relative_error
from zoo.network import random_input
from zoo.reparam.block import MultiBranchConv2d, conv_of, first_parameter

BLOCK_TOLERANCE = 1e-9
"""Largest relative error of a fold in float64; what is measured is near 1e-15."""


class EquivalenceError(RuntimeError):
    """A deployed network does not compute what it computed in training structure."""


def difference(got: Tensor, wanted: Tensor, what: str, origin: str) -> float:
    """Compute max |got - wanted| / max |wanted| of what was rewritten in float64 and what it was.

    Raises:
        EquivalenceError: It exceeds `BLOCK_TOLERANCE`, or the shapes differ.
    """
    error = relative_error(got, wanted) if got.shape == wanted.shape else math.nan
    if not error <= BLOCK_TOLERANCE:
        raise EquivalenceError(f"{what}, it differs by {error:.1e} from {origin}")
    return error


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
    return difference(got, wanted, f"block {name!r}: folded", "its branches")


def prove_network(model: nn.Module, deployed: nn.Module, example: Tensor) -> tuple[float, float]:
    """(error, noise floor): both networks' outputs against those of `model` in float64, relative to the largest.

    The noise floor is the un-deployed network's own rounding error in the dtype it has. In float64, where nothing is
    exact enough to tell, it is that in float32 scaled down: an estimate, so errors up to `BLOCK_TOLERANCE` pass.

    Raises:
        EquivalenceError: The error exceeds `NOISE_FACTOR` times the noise floor.
    """
    with torch.no_grad():
        exact = in_float64(model, example)
        noise = relative_error(model(example), exact)
        error = relative_error(deployed(example), exact)
        epsilon = torch.finfo(example.dtype).eps
        bound = NOISE_FACTOR * max(noise, epsilon)
        if example.dtype == torch.float64:
            single = relative_error(copy.deepcopy(model).float()(example.float()), exact)
            noise = single * epsilon / torch.finfo(torch.float32).eps
            bound = max(NOISE_FACTOR * noise, BLOCK_TOLERANCE)
    if not error <= bound:
        raise EquivalenceError(
            f"{type(model).__name__}: rewritten, it is off by {error:.1e}, its own rounding noise is {noise:.1e}"
        )
    return error, noise
