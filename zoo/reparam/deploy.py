"""A whole network to its deployed structure, proven equal."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.cost import count
from zoo.reparam.algebra import AffineKernel, compose, per_channel
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.first_conv import declare_first_conv
from zoo.reparam.fold import activation_of, norm_scale_shift
from zoo.reparam.layers import TrainingOnly
from zoo.reparam.pairs import conv_norm_pairs
from zoo.reparam.sites import conv_ways, norm_ways
from zoo.reparam.verify import example_input, input_size, prove_block, prove_network


@dataclass(frozen=True)
class BlockProof:
    """One block: its branches, and max |deployed - branches| / max |branches| in float64."""

    name: str
    branches: list[str]
    relative_error: float | None


@dataclass(frozen=True)
class DeployReport:
    """What `deploy` did and how exact it is.

    params and macs are (before, after); MACs are multiply-accumulates per image of `input_size`.
    relative_error and noise_floor are those of `zoo.reparam.verify.prove_network`.
    """

    blocks: list[BlockProof]
    folded_norms: int
    params: tuple[int, int]
    macs: tuple[int, int]
    input_size: list[int]
    relative_error: float | None = None
    noise_floor: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; what is written into a deployed checkpoint."""
        return asdict(self)

    def table(self) -> str:
        """For reading: one line a block, then the whole network."""
        width = max([len(block.name) for block in self.blocks] + [7])
        lines = [f"{'block':{width}}  error    branches"]
        for block in self.blocks:
            error = "unproven" if block.relative_error is None else f"{block.relative_error:.1e}"
            lines.append(f"{block.name:{width}}  {error:8} {' + '.join(block.branches)}")
        lines.append(f"BatchNorms folded outside blocks: {self.folded_norms}")
        lines.append(f"params {self.params[0] / 1e6:.2f} M -> {self.params[1] / 1e6:.2f} M")
        lines.append(f"MACs   {self.macs[0] / 1e6:.1f} M -> {self.macs[1] / 1e6:.1f} M at {self.input_size}")
        if self.relative_error is not None:
            lines.append(f"end to end: error {self.relative_error:.1e}, rounding noise {self.noise_floor:.1e}")
        return "\n".join(lines)


def deploy(
    model: nn.Module, example: Tensor | None = None, *, fold_norms: bool = True, verify: bool = True
) -> nn.Module:
    """The deployed structure of a network: see `deploy_with_report`."""
    return _deploy(model, example, fold_norms, verify)[0]


def deploy_with_report(
    model: nn.Module, example: Tensor | None = None, *, fold_norms: bool = True, verify: bool = True
) -> tuple[nn.Module, DeployReport]:
    """Copy a network, fold every block into one convolution, and prove that nothing has changed.

    Every `MultiBranchConv2d` becomes an `nn.Conv2d`; convolution-BatchNorm pairs left outside the blocks are folded
    too, where they can be; parts that only training uses are emptied. The network itself is not touched.

    Args:
        model: Any network with blocks, in eval mode.
        example: Images (N, C, H, W) for tracing and the end-to-end proof; random ones if not given.
        fold_norms: Also fold the BatchNorms outside blocks.
        verify: Prove (`zoo.reparam.verify`). On the meta device there is nothing to prove.

    Raises:
        ValueError: The network is in training mode, does not run on `example`, or answers with no tensor; a block
            does not fold (say, its BatchNorm keeps no running statistics).
        EquivalenceError: A block or the network differs; names it.
    """
    deployed, proofs, folded, error, noise = _deploy(model, example, fold_norms, verify)
    size = input_size(model) if example is None else tuple(example.shape[1:])
    before, after = count(model, size), count(deployed, size)
    params, macs = (before.params, after.params), (before.macs, after.macs)
    return deployed, DeployReport(proofs, folded, params, macs, list(size), error, noise)


def _deploy(
    model: nn.Module, example: Tensor | None, fold_norms: bool, verify: bool
) -> tuple[nn.Module, list[BlockProof], int, float | None, float | None]:
    """The deployed network, its blocks' proofs, the number of BatchNorms folded, the error and the noise floor."""
    if model.training:
        raise ValueError(
            f"{type(model).__name__} is in training mode, where BatchNorm answers with the batch's statistics: "
            "call model.eval() before deploying"
        )
    example = example_input(model) if example is None else example
    verify = verify and not example.is_meta
    deployed = copy.deepcopy(model)
    proofs = []
    for module in list(deployed.modules()):
        if isinstance(module, TrainingOnly):
            module.clear()
    for name, module in list(deployed.named_modules()):
        if isinstance(module, MultiBranchConv2d):
            proofs.append(BlockProof(name, list(module.branches), prove_block(module, name) if verify else None))
            deployed = _replace(deployed, module, module.fuse())
    folded = fold_conv_norms(deployed, example) if fold_norms else 0
    declare_first_conv(deployed)
    error, noise = prove_network(model, deployed, example) if verify else (None, None)
    return deployed, proofs, folded, error, noise


def is_deployed(model: nn.Module) -> bool:
    """Whether no multi-branch block is left."""
    return not any(isinstance(module, MultiBranchConv2d) for module in model.modules())


def fold_conv_norms(model: nn.Module, example: Tensor) -> int:
    """Fold in place every BatchNorm that can be into the convolution that feeds it; an activation fused with it stays.

    What a multi-branch block feeds stays. Returns how many.
    """
    folded = 0
    for conv_name, norm_name in conv_norm_pairs(model, example).items():
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        if not isinstance(conv, nn.Conv2d) or conv_ways(conv) or norm_ways(norm):
            continue
        with torch.no_grad():
            kernel = _fold_conv_norm(conv, norm)
        fused = copy.deepcopy(conv)
        fused.weight = nn.Parameter(kernel.weight.to(conv.weight.dtype))
        fused.bias = nn.Parameter(kernel.bias.to(conv.weight.dtype))
        _replace(model, conv, fused)
        _replace(model, norm, activation_of(norm))
        folded += 1
    return folded


def _fold_conv_norm(conv: nn.Conv2d, norm: nn.Module) -> AffineKernel:
    """Transform I on two layers of a network, float64. Any padding mode: the border is the convolution's input."""
    bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
    kernel = AffineKernel(conv.weight.double(), bias.double(), groups=conv.groups)
    return compose(kernel, per_channel(*norm_scale_shift(norm)))


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put a module in another's place, under every name that one has; it may be the network itself."""
    if old is model:
        return new
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                setattr(parent, name, new)
    return model
