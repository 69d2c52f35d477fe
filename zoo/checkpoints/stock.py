"""Write a deployed network back in the layout of the stock network it was converted from.

A deployed network has the stock one's module names, but biases where BatchNorms were folded in. `torchvision`'s
`resnet50` has no place for those; it has BatchNorms. So a bias becomes the BatchNorm that does nothing but add it:
running mean 0, running variance 1, weight √(1 + ε), bias b.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.network import example_input
from zoo.surgery.pairs import conv_norm_pairs


def stock_state_dict(
    deployed: nn.Module | Mapping[str, Tensor], reference: nn.Module, example: Tensor | None = None
) -> dict[str, Tensor]:
    """A deployed network's weights as a state dict that `reference` loads strictly, computing the same.

    >>> stock = torchvision.models.resnet50()
    >>> stock.load_state_dict(stock_state_dict(zoo.deploy(dbb_resnet50), stock))

    Args:
        deployed: The deployed network, or its state dict.
        reference: A network of the stock layout; its weights do not matter (nor its device: meta will do).
        example: Images (N, C, H, W) that `reference` accepts; random ones of the size it declares if not given.

    Raises:
        ValueError: The names do not match; says which. A convolution without BatchNorm and without bias in
            the stock network (pre-activation, as DenseNet's) has no place for the bias of a block.
    """
    source = dict(deployed.state_dict() if isinstance(deployed, nn.Module) else deployed)
    example = example_input(reference) if example is None else example
    wanted = reference.state_dict()
    found: dict[str, Tensor] = {}
    for conv, norm in conv_norm_pairs(reference, example).items():
        bias = source.get(f"{conv}.bias")
        if f"{norm}.running_var" in source or bias is None:
            continue  # that BatchNorm was not folded
        if f"{conv}.bias" not in wanted:
            del source[f"{conv}.bias"]
        else:
            source[f"{conv}.bias"] = torch.zeros_like(bias)
        found |= _adding_norm(norm, bias, reference.get_submodule(norm))
    found |= source
    _compare(found, wanted)
    return {name: found[name] for name in wanted}


def _adding_norm(name: str, bias: Tensor, norm: Any) -> dict[str, Tensor]:
    """The state of a BatchNorm that adds `bias`; one without weight and bias puts it into the running mean."""
    one = torch.ones_like(bias)
    state = {"running_mean": 0 * one, "running_var": one, "num_batches_tracked": torch.tensor(0)}
    if norm.state_dict().get("weight") is None:
        state |= {"running_mean": -bias, "running_var": one * (1 - norm.eps)}
    else:
        state |= {"weight": one * (1 + norm.eps) ** 0.5, "bias": bias}
    return {f"{name}.{key}": value for key, value in state.items() if key in norm.state_dict()}


def _compare(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    for problem, names in (("lacks", missing), ("has no place for", extra)):
        if names:
            some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            whose = "the deployed network" if problem == "lacks" else "the stock layout"
            raise ValueError(f"{whose} {problem} {some}")
