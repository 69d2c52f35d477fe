"""Plain, ACNet and DBB networks start as in the papers' code: everywhere as PyTorch's own layers do."""

import math
from collections.abc import Iterator

import pytest
import timm
import torch
from torch import Tensor, nn

import zoo
from zoo.reparam.layers import IdentityConv2d

PREFIXES = ("", "acnet_", "dbb_")


def odd_layers(network: nn.Module) -> Iterator[str]:
    """Name every tensor of a convolution or linear layer that is not drawn from U(-b, b), b = 1 / sqrt(fan in).

    Its bounds, its mean square (b² / 3, up to six standard errors) and its mean (0, likewise).
    """
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear) or isinstance(module, IdentityConv2d):
            continue
        bound = 1 / math.sqrt(module.weight[0].numel())
        for key, tensor in module.named_parameters(recurse=False):
            if not is_uniform(tensor.detach().double(), bound):
                yield f"{name}.{key}"


def is_uniform(values: Tensor, bound: float) -> bool:
    count = values.numel()
    square, mean = 3 * values.square().mean() / bound**2, math.sqrt(3) * values.mean() / bound
    inside = values.abs().max() <= bound * (1 + 1e-6)
    return bool(inside and abs(square - 1) < 6 * 0.8945 / math.sqrt(count) and abs(mean) < 6 / math.sqrt(count))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v1"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_layer_starts_as_pytorchs(prefix, name):
    torch.manual_seed(0)
    network = zoo.create_model(f"{prefix}{name}")
    assert not list(odd_layers(network))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(bool((norm.weight == 1).all() and (norm.bias == 0).all()) for norm in norms)
    identities = [module for module in network.modules() if isinstance(module, IdentityConv2d)]
    assert bool(identities) == (prefix == "dbb_") and all(not conv.weight.any() for conv in identities)


def test_timms_own_start_is_told_from_pytorchs():
    torch.manual_seed(0)
    odd = list(odd_layers(timm.create_model("resnet18")))
    assert len(odd) == 20 and not [name for name in odd if name.startswith("fc")]
