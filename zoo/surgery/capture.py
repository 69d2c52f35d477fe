"""The graphs of a network: one for the whole where torch.fx can trace it, and one for each part of what it cannot."""

import copy
import inspect
import itertools
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from timm.models._features_fx import get_notrace_functions
from torch import Tensor, fx, nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from zoo.network import EmptyNorms, names_of, run_on_twin
from zoo.reparam.block import MultiBranchConv2d
from zoo.reparam.fold import NORM_LAYERS, activation_of, fold

Refuse = Callable[[str], str | None]
"""The reason why the module of that name in the network must stay as it is, or None."""
PLAIN = (bool, int, float, str, type(None))
RANDOM = {"", "dropout", "rand", "randn", "rand_like", "randn_like", "bernoulli", "normal", "uniform"}
"""Functions whose result may be another one the next time; "" are those that are not torch's."""
LIBRARIES = {"torch", "torch.functional", "torch.nn.functional", "torch._C._nn", "math", "_operator", "builtins"}
"""Where the functions come from that go by their names."""


@dataclass
class Graph:
    """One traced module, `name` in the network, with what its analysis needs.

    twin: a copy of the module, on the meta device where it runs there. root: the copy of that which was traced, and
    may hold what tracing left behind, in caches too.
    unsafe: nodes whose memory an in-place operation changes while others read it.
    constants: nodes that do not depend on the module's input.
    """

    name: str
    twin: nn.Module
    root: nn.Module
    graph: fx.Graph
    unsafe: set[Node]
    constants: set[Node]

    def inputs(self, node: Node) -> list[Node]:
        """The nodes that a node reads, without constants."""
        return [n for n in node.all_input_nodes if n not in self.constants]

    def path(self, target: str) -> str:
        """The name in the network of a module of this graph."""
        return f"{self.name}.{target}".strip(".")

    def layer(self, node: Node) -> str | None:
        """The layer (its path in the graph) that a node belongs to: the one called, or a BatchNorm it is a part of."""
        if node.op == "call_module":
            return str(node.target)
        around = self.around(node)
        return around[-1] if around and isinstance(self.root.get_submodule(around[-1]), NORM_LAYERS) else None

    def around(self, node: Node) -> list[str]:
        """Paths (in this graph) of the calls that a node lies in, outermost first; its own module's is the last."""
        return [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]


@dataclass
class Calls:
    """The arguments of every module's last call in one forward pass, and how often it ran under any of its names."""

    arguments: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)


class _Tracer(fx.Tracer):
    """Traces through every module of the network's own; one whose code does not trace stays a single node."""

    proxy_buffer_attributes = True  # else what a forward computes of buffers would be computed on the twin's

    def __init__(self, keep: Callable[[str], bool], arguments: Mapping[str, Any]) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.keep, self.arguments = keep, arguments
        self.untraced: dict[str, str | None] = {}

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Stand in for tensors only: flags, None and numbers are those of the recorded call."""
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        fixed = {key: value for key, value in self.arguments.items() if isinstance(value, PLAIN)}
        return function, [fixed.get(str(arg.node.target), arg) if isinstance(arg, fx.Proxy) else arg for arg in args]

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """Take a map apart whose number of parts is written out: list(x.chunk(2, 1))."""
        parts = obj.node.args[1] if operation(obj.node) == "chunk" and len(obj.node.args) > 1 else None
        if not isinstance(parts, int):
            return super().iter(obj)
        return iter([self.create_proxy("call_function", operator.getitem, (obj, i), {}) for i in range(parts)])

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self.keep(module_qualified_name) or is_layer(m)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        last, stack = next(iter(reversed(self.graph.nodes))), self.module_stack.copy()
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:  # whatever a network's code raises on a stand-in for a tensor
            for node in itertools.takewhile(lambda node: node is not last, reversed(self.graph.nodes)):
                self.graph.erase_node(node)
            self.module_stack = stack
            name = self.path_of_module(m)
            self.untraced[name] = _line(error)
            return self.create_proxy("call_module", name, args, kwargs)


def has_hooks(module: nn.Module) -> bool:
    """Tell whether a module has forward hooks."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def is_layer(module: nn.Module) -> bool:
    """Tell whether a call of a module is a single node: of torch's own, of a block, and of whatever has hooks."""
    torchs = module.__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
    ours = isinstance(module, nn.Conv2d | nn.Linear | MultiBranchConv2d)
    norm = isinstance(module, _BatchNorm) and isinstance(activation_of(module), nn.Identity)
    return torchs or ours or norm or has_hooks(module)


def capture(model: nn.Module, example: Tensor) -> tuple[list[Graph], Calls, dict[str, str]]:
    """Trace a network; return its graphs, its modules' calls, and {module that does not trace: reason}.

    Raises:
        ValueError: The network does not run on `example`.
    """
    twin, calls = run_on_twin(model, example, _observe)
    untraced: dict[str, str] = {}
    return list(_graphs(twin, "", calls, untraced)), calls, untraced


def _observe(model: nn.Module, example: Tensor) -> tuple[nn.Module, Calls]:
    calls, names = Calls(), names_of(model)

    def record(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.times.update(names[module])
        calls.arguments[names[module][0]] = args, kwargs

    with torch.no_grad(), ExitStack() as hooks:
        for module in names:
            hooks.enter_context(module.register_forward_pre_hook(record, with_kwargs=True))
        model(example)
    return model, calls


def _graphs(root: nn.Module, name: str, calls: Calls, untraced: dict[str, str]) -> Iterator[Graph]:
    """The graph of a module, and those of the children of whatever does not trace in it."""
    opaque: dict[str, str | None] = {"": None}
    if name in calls.arguments:
        if is_layer(root):
            return
        try:
            graph, opaque = trace_module(root, name, calls)
        except Exception as error:  # see _Tracer
            opaque = {"": _line(error)}
        else:
            yield graph
    for inner, reason in opaque.items():
        path = f"{name}.{inner}".strip(".")
        if reason is not None:
            untraced[path] = reason
        for child_name, child in root.get_submodule(inner).named_children():
            yield from _graphs(child, f"{path}.{child_name}".strip("."), calls, untraced)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"


def trace_module(
    twin: nn.Module, name: str, calls: Calls, keep: Callable[[str], bool] = lambda name: False
) -> tuple[Graph, dict[str, str | None]]:
    """Trace one module; return its graph and {submodule that does not trace: reason}.

    Args:
        twin: The module, on the device of the recorded arguments. It is not changed.
        name: Its name in the network.
        calls: The arguments of its call.
        keep: Submodules (by their path in `root`) that stay a single node.
    """
    root = copy.deepcopy(twin)
    args, kwargs = calls.arguments[name]
    bound = inspect.signature(root.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    tracer = _Tracer(keep, bound.arguments)
    graph = tracer.trace(root)
    observer = _Observer(root, garbage_collect_values=False, graph=graph)  # memory let go of would be another's next
    with torch.no_grad(), EmptyNorms():
        observer.run(*(bound.arguments[str(n.target).strip("*")] for n in graph.nodes if n.op == "placeholder"))
    drop_unread(graph)
    return Graph(name, twin, root, graph, _unsafe(graph), _constants(graph)), tracer.untraced


class Evaluator(fx.Interpreter):
    """Computes nodes with the modules and tensors of `root`: on a meta twin shapes alone, on the network values."""

    def __init__(self, traced: Graph, root: nn.Module, refuse: Refuse) -> None:
        super().__init__(nn.Module(), garbage_collect_values=False, graph=traced.graph)  # would list root's modules
        self.module, self.traced, self.refuse, self.fold = root, traced, refuse, cache(fold)
        tensor = next(itertools.chain(root.parameters(), root.buffers()), torch.empty(0, device="cpu"))
        self.like = torch.empty(0, dtype=torch.float64, device=tensor.device)
        self.constants: dict[Node, Any] = {}

    @torch.no_grad()
    def value(self, node: Node, known: dict[Node, Any]) -> Any:
        """Compute a node in float64 from nodes whose values are known; these become more."""
        if node not in known:
            self.env = {n: self.value(n, known) for n in node.all_input_nodes}
            known[node] = self.run_node(node)
        return known[node]

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        return copy.deepcopy(self.module.get_submodule(target)).double()(*args, **kwargs)

    def fetch_attr(self, target: str) -> Any:
        try:
            value = operator.attrgetter(target)(self.module)
        except AttributeError:  # tracing puts tensors that are no attributes on its root
            value = operator.attrgetter(target)(self.traced.root)
            if value.is_meta and not self.like.is_meta:
                raise ValueError("a tensor that was computed while tracing") from None
        return value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value


class _Observer(fx.Interpreter):
    """Runs a graph, and notes of every node its shape, the memory that its result lies in, and what memory it changes.

    Memory goes by the number of its storage, which views share; in-place operations count up a tensor's version.
    """

    def run_node(self, n: Node) -> Any:
        inputs = _tensors(self.fetch_args_kwargs_from_env(n))
        versions = [tensor._version for tensor in inputs]
        result = super().run_node(n)
        n.meta["shape"] = result.shape if isinstance(result, Tensor) else None
        n.meta["scalar"] = isinstance(result, bool | int | float | torch.Size | torch.dtype | torch.device | None)
        n.meta["memory"] = _storages(_tensors(result))
        n.meta["changes"] = _storages([t for t, before in zip(inputs, versions, strict=True) if t._version != before])
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _storages(tensors: list[Tensor]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def drop_unread(graph: fx.Graph) -> None:
    """Remove attributes that nothing reads, and the code that only looks at shapes to complain about them."""

    def goes(node: Node) -> bool:
        return node.op == "get_attr" or node.meta.get("scalar") or node.target is torch._assert

    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or not goes(node))


def operation(node: Node) -> str:
    """The bare name of what a node calls: "add" for torch.add, operator.add, Tensor.add_; "" for others' functions."""
    target: Any = node.target
    if node.op == "call_method":
        return target.strip("_")
    return target.__name__.strip("_") if getattr(target, "__module__", None) in LIBRARIES else ""


def _unsafe(graph: fx.Graph) -> set[Node]:
    """Find the nodes whose memory is changed in place although something else reads what was in it."""
    unsafe: set[Node] = set()
    for node in graph.nodes:
        if changed := node.meta["changes"]:
            sharing = {n for n in graph.nodes if n.meta["memory"] & changed}
            old = {n for n in sharing if n < node}
            readers = {user for n in old for user in n.users if not user.meta["scalar"]}
            if readers - old - {node}:
                unsafe |= sharing
    return unsafe


def _constants(graph: fx.Graph) -> set[Node]:
    """Find the nodes that are the same for every input: parameters, and what functions compute of them alone."""
    found: set[Node] = set()
    for node in graph.nodes:
        function = node.op in ("call_function", "call_method") and operation(node) not in RANDOM
        if node.op == "get_attr" or (function and found.issuperset(node.all_input_nodes)):
            found.add(node)
    return found
