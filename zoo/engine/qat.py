"""Quantisation-aware training: a deployed network learns with int8 rounding in its forward pass, by NNCF."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import zoo
from zoo.atomic import atomic_files
from zoo.checkpoints.tables import QUANTISERS
from zoo.data import EvalLoader, ImageSet
from zoo.data.image_sets import spread
from zoo.engine.build import make_eval_loader
from zoo.engine.config import TrainConfig
from zoo.engine.distributed import Processes
from zoo.engine.evaluate import evaluate
from zoo.engine.finish import Trained, results_of
from zoo.engine.hardware import place
from zoo.engine.state import RunState
from zoo.engine.step import Run
from zoo.export.cpu import saturates_int8
from zoo.export.engines import Run as Call
from zoo.export.engines import Source, refusal
from zoo.export.files import FORMATS, said_by
from zoo.export.formats import Order
from zoo.export.graphs import to_openvino
from zoo.export.int8 import by_nncf

if TYPE_CHECKING:
    from nncf.common.graph import NNCFGraph, NNCFNode

CALIBRATION_IMAGES = 256
INT8 = "deployed.xml"
NO_DECAY = f"{QUANTISERS}*"
"""Selector of the quantisers' ranges: decayed, they would cut off more and more."""


def refuse(config: TrainConfig, train_set: Any, resumed: bool, processes: Processes) -> None:
    """Refuse what does not go with training in int8. Raises: ValueError."""
    if reason := refusal("openvino", "int8"):
        raise ValueError(f"qat: {reason}")
    unfit = {
        "several processes": processes.distributed,
        "--merge-pixels": config.optim.merge_pixels,
        "--torchcompile": config.hardware.torchcompile,
        f"--amp-dtype {config.hardware.amp_dtype}": config.hardware.amp_dtype not in ("auto", "float32"),
    }
    if found := [what for what, asked in unfit.items() if asked]:
        raise ValueError(f"qat: one process trains the deployed network in float32: drop {', '.join(found)}")
    if not (config.model.checkpoint or config.model.pretrained or resumed):
        raise ValueError("qat: refines trained weights: give --checkpoint, or --pretrained")
    if not isinstance(train_set, ImageSet):
        raise ValueError("qat: takes ranges from training images, so it needs a set with an index, not a stream")


def quantise(network: nn.Module, config: TrainConfig, train_set: ImageSet, processes: Processes) -> nn.Module:
    """Deploy a network and insert NNCF's quantisers, their ranges taken from training images cut as in validation.

    Raises: ValueError for a network that NNCF does not take.
    """
    deployed = place(zoo.deploy(network.eval()), config.hardware, processes.device)
    if isinstance(deployed, torch.fx.GraphModule | nn.Sequential):
        kind = "nn.Sequential" if isinstance(deployed, nn.Sequential) else "traced anew as it was deployed"
        raise ValueError(f"qat: NNCF trains no network that is {kind}: wrap it in a module with a forward of its own")
    batches = make_eval_loader(config, spread(train_set, CALIBRATION_IMAGES), network, processes)
    images = [batch[0] for batch in batches]
    _round_in_python()
    quantised = by_nncf(deployed, images, _kept_in_float(deployed, images[0]))
    _bound_weights(quantised)
    return quantised


def _round_in_python() -> None:
    """Have NNCF round by its functions in Python, which do the same steps as its C++ extension.

    The extension would be compiled first, for minutes; and after a compilation that was killed, every later run waits
    for its lock without end.
    """
    from nncf.torch.quantization import extensions
    from nncf.torch.quantization.reference import torch_executor as python

    functions = SimpleNamespace(Quantize_forward=python.forward, Quantize_backward=python.backward)
    loaders: Any = (extensions.QuantizedFunctionsCPU, extensions.QuantizedFunctionsCUDA)
    for extension in loaders:
        extension._loaded_namespace = functions  # private: NNCF has no setting that does it


def _bound_weights(network: nn.Module) -> None:
    """Give weights the levels that they have in the file, in 7 of 8 bits where 8 would saturate.

    NNCF simulates one level less than the file has, and lets weights only start within 7 bits.
    """
    from nncf.torch.quantization.layers import SymmetricQuantizer

    for quantiser in network.modules():
        if isinstance(quantiser, SymmetricQuantizer) and quantiser.per_channel:  # activations have one range
            highest = quantiser.level_high
            quantiser._narrow_range, quantiser._half_range = False, saturates_int8()
            quantiser.set_levels()
            quantiser.scale.data.mul_(quantiser.level_high / highest)  # the steps stay


def _kept_in_float(network: nn.Module, images: Tensor) -> list[str]:
    """Name the operations that int8 leaves alone, as after training (`zoo.export.openvino_engine`)."""
    import nncf
    from nncf.torch.function_hook import wrap_model

    graph = nncf.build_graph(wrap_model(copy.deepcopy(network)), example_input=images[:1])
    convolutions = [node for node in graph.get_all_nodes() if node.node_type == "conv2d"]
    if all(_is_dense(node, graph) for node in convolutions):
        return []
    layers = [node for node in convolutions if _is_dense(node, graph) and _shape(node, 0, graph)[2:] != (1, 1)]
    return [node.node_name for node in graph.get_all_nodes() if node not in layers and node.node_type != "linear"]


def _is_dense(convolution: NNCFNode, graph: NNCFGraph) -> bool:
    return _shape(convolution, 0, graph)[1] == _shape(convolution, 1, graph)[1]


def _shape(node: NNCFNode, port: int, graph: NNCFGraph) -> tuple[int, ...]:
    """The shape of what a node takes: of a convolution, 0 is its map and 1 its weight."""
    return tuple(graph.get_input_edge_by_port_id(node, port).tensor_shape)


def score_before(network: nn.Module, quantised: nn.Module, batches: Iterable[Any]) -> dict[str, int | float | None]:
    """Score a network in float and just quantised: the row of the history before the first epoch."""
    scores, _ = evaluate({"float": network, "int8": quantised}, batches)
    return {"epoch": 0, "step": 0, "float_top1": scores["float"].top1, "top1": scores["int8"].top1}


class File(nn.Module):
    """An exported file as a network, to be judged like one."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def forward(self, images: Tensor) -> Tensor:
        return self.call(images.cpu()).to(images.device)


def finish_int8(run: Run, state: RunState, loader: EvalLoader) -> Trained:
    """Write the better weights as an OpenVINO file in int8, read it back, and judge both on the same images.

    Raises: as `zoo.engine.finish.finish`.
    """
    before, last, weights = state.progress.history[0], state.progress.history[-1], state.weights()
    best = "ema" if "ema" in weights and (last["ema_top1"] or 0) >= (last["top1"] or 0) else "raw"
    network, example = weights[best].eval(), next(iter(loader))[0][:2]
    kind, path = FORMATS["openvino"], run.folder / INT8
    order = Order(
        Source(copy.deepcopy(network).cpu(), example.cpu()),
        "int8",
        said_by(network, example, test=True),
        free_batch=True,
        way=lambda order: to_openvino(order.source.network, order.source.example),
    )
    with atomic_files(path) as made:
        kind.write(order, made)
    names = f"{best}/train", f"{best}/deployed"
    networks: dict[str, nn.Module] = {names[0]: network, names[1]: File(kind.read(path, "int8"))}
    batches = run.stop.watch(loader, f"during the last evaluation; {run.how_to_continue}")
    scores, agreements = evaluate(networks, batches, torch.float32, run.processes, [names])
    results = results_of(run, state, best, scores, agreements[names], path)
    untrained = {"float": {"top1": before["float_top1"]}, "int8, not trained": {"top1": before["top1"]}}
    results["scores"] = untrained | results["scores"]
    return Trained(
        results=results,
        network=network,
        deployed=networks[names[1]],
        predictions=scores[names[1]],
        example=example[:1],
    )
