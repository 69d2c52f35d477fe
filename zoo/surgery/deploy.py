"""A whole network to its deployed structure, proven equal."""

import copy
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from zoo.cost import count
from zoo.network import input_size, proof_input
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.fold import NORM_LAYERS
from zoo.results.table import Column, Table
from zoo.surgery.declared_layers import declare_layers
from zoo.surgery.fold_regions import RegionProof, fold_regions
from zoo.surgery.rewrite import replace_module
from zoo.surgery.verify import prove_block, prove_network


class TrainingOnly(nn.ModuleList):
    """Parts of a network that only training uses, such as auxiliary heads; deploying empties it."""

    def clear(self) -> None:
        self._modules.clear()


@dataclass(frozen=True)
class BlockProof:
    """One block: its branches, and max |deployed - branches| / max |branches| in float64."""

    name: str
    branches: list[str]
    relative_error: float | None


@dataclass(frozen=True)
class DeployReport:
    """The blocks that `deploy` folded, its cost before and after, and its error.

    params and macs are (before, after); MACs are multiply-accumulates per image of `input_size`.
    relative_error and noise_floor are those of `zoo.surgery.verify.prove_network`.
    """

    blocks: list[BlockProof]
    regions: list[RegionProof]
    left: dict[str, str]
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
        """For reading: one line a block, then the whole network and what was left."""
        columns = [
            Column("block", lambda block: block.name),
            Column("error", lambda block: "unproven" if (e := block.relative_error) is None else f"{e:.1e}"),
            Column("branches", lambda block: " + ".join(block.branches)),
        ]
        return "\n".join([*([Table(columns, self.blocks).text()] if self.blocks else []), self.summary()])

    def summary(self) -> str:
        """For reading: what folding saves in the whole network, and what was left with the reason."""
        lines = [f"regions folded outside blocks: {len(self.regions)}, with {self.folded_norms} BatchNorms"]
        lines.append(f"params {self.params[0] / 1e6:.2f} M -> {self.params[1] / 1e6:.2f} M")
        lines.append(f"MACs   {self.macs[0] / 1e6:.1f} M -> {self.macs[1] / 1e6:.1f} M at {self.input_size}")
        if self.relative_error is not None:
            lines.append(f"end to end: error {self.relative_error:.1e}, rounding noise {self.noise_floor:.1e}")
        for reason in dict.fromkeys(self.left.values()):
            names = [name or "the network itself" for name, why in self.left.items() if why == reason]
            lines.append(f"left: {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {reason}")
        return "\n".join(lines)


def deploy(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    fold_regions: bool = True,
    fold_all: bool = False,
    verify: bool = True,
) -> nn.Module:
    """The deployed structure of a network: see `deploy_with_report`."""
    return _deploy(model, example, fold_regions, fold_all, verify)[0]


fold = deploy
"""`deploy` by the name that says what it does to the networks of others."""


def deploy_with_report(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    fold_regions: bool = True,
    fold_all: bool = False,
    verify: bool = True,
) -> tuple[nn.Module, DeployReport]:
    """Copy a network, fold every linear region into one convolution, and prove that nothing has changed.

    Every `MultiBranchConv2d` becomes an `nn.Conv2d`; so does, whoever wrote it, every other part of the network that is
    linear and costs no more as one convolution (`zoo.surgery.regions`). Parts that only training uses are emptied.
    The network itself is not touched.

    Args:
        model: Any network, in eval mode.
        example: Images (N, C, H, W) for tracing and the end-to-end proof; random ones if not given.
        fold_regions: Fold the linear regions outside blocks too.
        fold_all: Fold them also where parameters or MACs grow.
        verify: Prove (`zoo.surgery.verify`). On the meta device there is nothing to prove.

    Raises:
        ValueError: The network is in training mode, does not run on `example`, or answers with no tensor; a block
            does not fold (say, its BatchNorm keeps no running statistics).
        EquivalenceError: A block or the network differs; names it.
    """
    deployed, proofs, regions, left, error, noise = _deploy(model, example, fold_regions, fold_all, verify)
    folded = _count_norms(model) - _count_norms(deployed)
    size = input_size(model) if example is None else tuple(example.shape[1:])
    before, after = count(model, size), count(deployed, size)
    params, macs = (before.params, after.params), (before.macs, after.macs)
    return deployed, DeployReport(proofs, regions, left, folded, params, macs, list(size), error, noise)


def _deploy(
    model: nn.Module, example: Tensor | None, outside: bool, fold_all: bool, verify: bool
) -> tuple[nn.Module, list[BlockProof], list[RegionProof], dict[str, str], float | None, float | None]:
    """Return the deployed network, the proofs of blocks and regions, what was left, the error and the noise floor."""
    if model.training:
        raise ValueError(
            f"{type(model).__name__} is in training mode, where BatchNorm answers with the batch's statistics: "
            "call model.eval() before deploying"
        )
    example = proof_input(model) if example is None else example
    verify = verify and not example.is_meta
    deployed = copy.deepcopy(model)
    proofs = []
    for module in list(deployed.modules()):
        if isinstance(module, TrainingOnly):
            module.clear()
    for name, module in list(deployed.named_modules()):
        if isinstance(module, MultiBranchConv2d):
            proofs.append(BlockProof(name, list(module.branches), prove_block(module, name) if verify else None))
            deployed = replace_module(deployed, module, module.fuse())
    regions, left = [], {}
    if outside:
        deployed, regions, left = fold_regions(deployed, example, prove=verify, fold_all=fold_all)
    declare_layers(deployed)
    error, noise = prove_network(model, deployed, example) if verify else (None, None)
    return deployed, proofs, regions, left, error, noise


def _count_norms(model: nn.Module) -> int:
    """Count the BatchNorms outside blocks."""
    inside = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, MultiBranchConv2d))
    return sum(isinstance(m, NORM_LAYERS) for name, m in model.named_modules() if not name.startswith(inside))


def is_deployed(model: nn.Module) -> bool:
    """Tell whether no multi-branch block is left."""
    return not any(isinstance(module, MultiBranchConv2d) for module in model.modules())
