"""Recognise a checkpoint: which layout, which structure, which network. By its names, never by guessing."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from zoo.checkpoints.layouts import Layout
from zoo.checkpoints.read import Checkpoint
from zoo.checkpoints.tables import LAYOUTS, NATIVE
from zoo.network import declared, meta_twin
from zoo.reparam.block import MultiBranchConv2d
from zoo.surgery.deploy import TrainingOnly, deploy

Structure = Literal["train", "deployed", "blocks deployed"]


@dataclass(frozen=True)
class Match:
    """A file's names matched with a network's.

    Attributes:
        layout, structure: What the file is. "blocks deployed": BatchNorms outside blocks are still there.
        network: The network in that structure.
        names: {name in the file: name in the network}.
        missing, unknown: Names that the layout has and the file has not, and the reverse; both empty if it fits.
        elsewhere: Names in the file of parts that the layout has and our network has not.
    """

    layout: Layout
    structure: Structure
    network: nn.Module
    names: dict[str, str]
    missing: list[str]
    unknown: list[str]
    elsewhere: list[str]

    @property
    def fits(self) -> bool:
        return not self.missing and not self.unknown


def recognise(model: nn.Module, checkpoint: Checkpoint) -> Match:
    """The layout and structure whose names are the file's; if none is, the one that differs least."""
    theirs = {name for name in checkpoint.state_dict if not _counts_batches(name)}
    layouts = [NATIVE, *marked(checkpoint)]
    blocks = [name for name, module in model.named_modules() if isinstance(module, MultiBranchConv2d)]
    training_only = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, TrainingOnly))
    nearest: Match | None = None
    for structure, network in _structures(model, theirs, layouts):
        keys = list(network.state_dict())
        spare = [key for key in model.state_dict() if key.startswith(training_only)] if structure != "train" else []
        for layout in layouts:
            names = layout.names(keys, blocks if structure != "train" else ())
            if names is None:
                continue
            expected = {name for name in names if not _counts_batches(name)}
            unknown = theirs - expected - set(layout.names(spare) or ())
            elsewhere = {name for name in unknown if layout.elsewhere and re.search(layout.elsewhere, name)}
            differing = sorted(expected - theirs), sorted(unknown - elsewhere)
            match = Match(layout, structure, network, names, *differing, sorted(elsewhere))
            if match.fits:
                return match
            if nearest is None or _distance(match) < _distance(nearest):
                nearest = match
    assert nearest is not None
    return nearest


def _structures(model: nn.Module, theirs: set[str], layouts: list[Layout]) -> Iterator[tuple[Structure, nn.Module]]:
    """The network as it is; then, if it comes to that, deployed on the meta device."""
    yield "train", model
    # Deploying keeps the names of modules, and takes seconds for a large network that a file merely claims to be of.
    modules = {name.rpartition(".")[0] for name in theirs}
    if layouts == [NATIVE] and modules.isdisjoint(name for name, _ in model.named_modules()):
        return
    twin = meta_twin(model).requires_grad_(True).eval()
    yield "deployed", deploy(twin, verify=False)
    if any(layout.keeps_norms for layout in layouts):
        yield "blocks deployed", deploy(twin, verify=False, fold_regions=False)


def _counts_batches(name: str) -> bool:
    """Old files lack `num_batches_tracked`, of no influence on the outputs; torch then fills it in."""
    return name.endswith("num_batches_tracked")


def _distance(match: Match) -> float:
    """Return the share of all names that only the file or only the network has."""
    return (len(match.missing) + len(match.unknown)) / (len(match.names) + len(match.unknown))


def marked(checkpoint: Checkpoint) -> list[Layout]:
    """The layouts that some name in a file bears the mark of."""
    return [layout for layout in LAYOUTS if any(re.search(layout.mark, name) for name in checkpoint.state_dict)]


def classifier(network: nn.Module) -> str | None:
    """Name of the last layer, which has a row a class, if the network declares it."""
    name = declared(network).get("classifier")
    return name if isinstance(name, str | None) else name[0]
