"""Find the BatchNorm that a convolution feeds, in the graphs of a network."""

from collections import Counter
from collections.abc import Iterator

from torch import Tensor, nn

from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.fold import is_plain_norm
from zoo.surgery.capture import Graph, capture


def conv_norm_pairs(model: nn.Module, example: Tensor) -> dict[str, str]:
    """{name of a convolution or block: name of the BatchNorm that alone reads its output}: see `pairs_and_calls`."""
    return pairs_and_calls(model, example)[0]


def pairs_and_calls(model: nn.Module, example: Tensor) -> tuple[dict[str, str], Counter[str]]:
    """Find the BatchNorm behind every convolution in the graphs of a network, and count how often each module runs.

    Attribute names, order of definition and structure (residual, concatenated, pre-activation) do not matter. A module
    that is called twice, or whose output is read by anything else or is itself an output of the network, is in no pair;
    nor are two that meet only in a `forward` that cannot be traced.

    Args:
        model: Any network. It is not changed.
        example: An input it accepts, (N, C, H, W).

    Raises:
        ValueError: The network does not run on `example`.
    """
    graphs, calls, _ = capture(model, example)
    pairs = dict(pair for graph in graphs for pair in _pairs(graph))
    return {c: n for c, n in pairs.items() if calls.times[c] == calls.times[n] == 1}, calls.times


def _pairs(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.graph.nodes:
        conv = graph.root.get_submodule(str(node.target)) if node.op == "call_module" else None
        readers = {graph.layer(user) for user in node.users if not user.meta.get("scalar")}
        norm = readers.pop() if isinstance(conv, nn.Conv2d | MultiBranchConv2d) and len(readers) == 1 else None
        if norm and is_plain_norm(graph.root.get_submodule(norm)):
            yield graph.path(str(node.target)), graph.path(norm)
