"""Fold every linear region of a network that is worth it."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from torch import Tensor, nn

from zoo.reparam.fold import NORM_LAYERS
from zoo.surgery.capture import Calls, Graph, capture, has_hooks
from zoo.surgery.regions import Region, Search
from zoo.surgery.rewrite import (
    RegionProof,
    chain_of,
    enclosing,
    fold_region,
    is_all_of_module,
    name_for,
    remove_layer,
    replace_module,
    rewrite_forward,
    signature,
    within,
)
from zoo.surgery.sites import refuse_conv


class Restrictions:
    """The modules of a network that must stay as they are, each with the reason."""

    def __init__(self, model: nn.Module, calls: Calls, graphs: list[Graph]) -> None:
        self.model, self.times = model, calls.times
        self.readers = [reader for graph in graphs for reader in _readers(graph)]
        self.tensors = Counter(id(p) for m in model.modules() for p in m._parameters.values())
        self.reasons: dict[str, str] = {}

    def __call__(self, name: str) -> str | None:
        """Why the layer of that name is no part of a region, or None."""
        module = self.model.get_submodule(name)
        reason = self.once(name) or self._layer(module)
        if reason and isinstance(module, (nn.Conv2d, nn.Linear, *NORM_LAYERS)):
            self.reasons[name] = reason
        return reason

    def once(self, name: str) -> str | None:
        """Why what the name holds cannot be taken away, or None."""
        module = self.model.get_submodule(name)
        if self.times[name] > 1:
            return f"is called {self.times[name]} times in one pass"
        if any(f"{owner}.".startswith(f"{name}.") and name not in around for owner, around in self.readers if name):
            return "has parameters that are read elsewhere too"
        return "has forward hooks, which would be lost" if any(map(has_hooks, module.modules())) else None

    def _layer(self, module: nn.Module) -> str | None:
        if module.training:
            return "is in training mode"
        if any(p is not None and self.tensors[id(p)] > 1 for p in module._parameters.values()):
            return "shares its parameters with another layer"
        return refuse_conv(module) if isinstance(module, nn.Conv2d) else None


def _readers(graph: Graph) -> Iterator[tuple[str, set[str]]]:
    """Each use of a module's own parameter or buffer: the module, and the modules that it is used in."""
    parts = graph.name.split(".")
    outer = {".".join(parts[: i + 1]) for i in range(len(parts))}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            owner = graph.path(str(node.target).rpartition(".")[0])
            for user in node.users:
                yield owner, outer.union(map(graph.path, graph.around(user)))


def fold_regions(
    model: nn.Module, example: Tensor, *, prove: bool = True, fold_all: bool = False
) -> tuple[nn.Module, list[RegionProof], dict[str, str]]:
    """Fold the linear regions of a network in place, those in one module's `forward` by rewriting that.

    Args:
        model: In eval mode. It is changed; what is returned is another module where all of it is one region.
        example: Images (N, C, H, W) it runs on.
        prove: Prove every region.
        fold_all: Fold also where parameters or MACs grow.

    Returns:
        The network, its folded regions, and {module left: reason}.

    Raises:
        ValueError: The network does not run on `example`.
        EquivalenceError: A region differs from its kernel.
    """
    folding = _Folding(model, example, prove, fold_all)
    while folding.fold_once():  # what waits becomes less each time, or is skipped
        pass
    return folding.model, folding.proofs, folding.left


class _Folding:
    """A network that is being folded, pass by pass: what has been folded, and what is left with the reason.

    failed: Modules that could not be rewritten, and why.
    skip: Regions, by the graph's name and what they call, that could not be placed: smaller ones are tried instead.
    """

    def __init__(self, model: nn.Module, example: Tensor, prove: bool, fold_all: bool) -> None:
        self.model, self.example, self.prove, self.fold_all = model, example, prove, fold_all
        self.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), example.dtype)
        self.proofs: list[RegionProof] = []
        self.left: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.skip: set[tuple[str, tuple[str, ...]]] = set()

    def fold_once(self) -> bool:
        """Capture the network and fold what is found; tell whether any of it waits for another pass."""
        graphs, self.calls, untraced = capture(self.model, self.example)
        self.restrictions, before = Restrictions(self.model, self.calls, graphs), len(self.proofs)
        searches = [Search(graph, self.restrictions, self._accept, self.fold_all) for graph in graphs]
        regions = [region for search in searches for region in search.regions()]
        inside = [region for region in regions if not self._place_in_chain(region)]
        self._rewrite(inside)
        self.left = untraced | self.restrictions.reasons | self.failed
        folded = {layer for proof in self.proofs for layer in proof.layers}
        norms = {s.graph.path(path): reason for s in searches for path, reason in s.norms_left()}
        self.left |= {name: reason for name, reason in norms.items() if name not in folded}
        return len(self.proofs) - before < len(regions)

    def _accept(self, region: Region) -> bool:
        return (region.graph.name, signature(region)) not in self.skip

    def _fold(self, region: Region, root: nn.Module, name: str) -> tuple[nn.Module, RegionProof]:
        return fold_region(region, root, name, self.dtype, self.restrictions, self.prove)

    def _place_in_chain(self, region: Region) -> bool:
        """Put the layer where the first convolution of a chain of layers is; tell whether the region is one.

        Names stay as they are, as does every `forward`, and what it permutes.
        """
        chain = [region.graph.path(layer) for layer in chain_of(region)]
        if not chain or any(map(self.restrictions.once, chain)):
            return False
        layer, proof = self._fold(region, self.model.get_submodule(region.graph.name), chain[0])
        first, *others = map(self.model.get_submodule, chain)  # before any goes: one may be a part of another
        replace_module(self.model, first, layer)
        for other in others:
            remove_layer(self.model, other)
        self.proofs.append(proof)
        return True

    def _rewrite(self, regions: list[Region]) -> None:
        """Rewrite the modules that regions are inside of, the innermost first."""
        groups: defaultdict[tuple[str, str], list[Region]] = defaultdict(list)
        for region in regions:
            groups[region.graph.name, enclosing(region)].append(region)
        done: list[str] = []
        for (graph_name, path), group in sorted(groups.items(), key=lambda item: -len(item[0][1])):
            name = group[0].graph.path(path)
            if any(not name or f"{other}.".startswith(f"{name}.") for other in done):
                continue  # in the next pass: what lies inside has changed
            try:
                module, proofs = self._rewritten(name, path, group)
            except (ValueError, RuntimeError, AttributeError, TypeError, KeyError) as error:
                self.failed[name] = f"{type(error).__name__}: {error}"
                self.skip |= {(graph_name, signature(region)) for region in group}
                continue
            self.model = replace_module(self.model, self.model.get_submodule(name), module)
            done.append(name)
            self.failed.pop(name, None)
            self.proofs += proofs

    def _rewritten(self, name: str, path: str, group: list[Region]) -> tuple[nn.Module, list[RegionProof]]:
        """The layer that a whole module becomes, or a module that calls one for each region; and their proofs."""
        if reason := self.restrictions.once(name):
            raise ValueError(reason)
        if not name and hasattr(self.model, "forward_features"):
            why = "beside which forward_features and others would stay as they are"
            raise ValueError(f"lies in the network's own forward, {why}")
        regions = within(path, group, self.calls, self.restrictions, self.fold_all)
        owner = self.model.get_submodule(name)
        if len(regions) == 1 and is_all_of_module(regions[0], *self.calls.arguments[name]):
            layer, proof = self._fold(regions[0], owner, name)
            return layer, [proof]
        layers: dict[str, tuple[Region, nn.Module]] = {}
        proofs: list[RegionProof] = []
        for region in regions:
            where = name_for(region, owner, layers)
            layer, proof = self._fold(region, owner, f"{name}.{where}".strip("."))
            layers[where] = region, layer
            proofs.append(proof)
        return rewrite_forward(owner, layers), proofs
