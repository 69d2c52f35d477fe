"""Write a network as a file; it is read back and compared with PyTorch before it takes its name."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.atomic import atomic_files
from zoo.compare import Agreement
from zoo.export import (
    coreml_file,
    executorch_file,
    litert_file,
    mnn_engine,
    ncnn_engine,
    onnx_engine,
    openvino_engine,
    torch_files,
)
from zoo.export.compile import calibration_batches, deployed_network
from zoo.export.engines import Run, Source, check_name, missing_package
from zoo.export.formats import Format, Order
from zoo.export.int8 import Attempt, Goal
from zoo.export.parity import compare_engine, references
from zoo.network import class_names, facts

FORMATS = {
    "onnx": onnx_engine.FILE,
    "openvino": openvino_engine.FILE,
    "torch-export": torch_files.PROGRAM,
    "torchscript": torch_files.SCRIPT,
    "ncnn": ncnn_engine.FILE,
    "mnn": mnn_engine.FILE,
    "litert": litert_file.FILE,
    "executorch": executorch_file.FILE,
    "coreml": coreml_file.FILE,
}
STRUCTURES = ("deployed", "train")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written, and how it compares with PyTorch.

    input_shape: (N, C, H, W); N is None if the batch size is free.
    num_bytes: Of the file and of those that belong to it.
    nodes: operation → how often it occurs, constants aside; empty if the format does not tell.
    parity: the file, read back by its engine, beside the deployed float32 network in PyTorch; None if no engine for
        it runs here, for the reason that `unchecked` gives.
    attempts: in float32 and with each way of quantising that was tried for a `Goal`.
    """

    path: str
    format: str
    structure: str
    precision: str
    input_shape: tuple[int | None, ...]
    num_bytes: int
    nodes: dict[str, int]
    parity: Agreement | None
    unchecked: str | None = None
    attempts: tuple[Attempt, ...] = ()


def export_file(
    model: nn.Module,
    path: str | Path,
    example: Tensor,
    *,
    format: str = "onnx",
    structure: str = "deployed",
    precision: str = "fp32",
    dynamic_batch: bool = False,
    opset: int | None = None,
    calibration: Iterable[Tensor] | Literal["random"] | None = None,
    goal: Goal | None = None,
) -> ExportedFile:
    """Write a network's graph: one input (N, C, H, W), one output; the caller normalises the images.

    The file says of images and classes what the network says (`zoo.network.facts`): JSON under `zoo`, in the metadata
    of an ONNX graph or Core ML package, the `rt_info` of an OpenVINO model, the extra files of PyTorch's formats. What
    has no place for it (ncnn, MNN, LiteRT, ExecuTorch) gets a file beside it, NAME.json for NAME.mnn.

    Args:
        model: Any network in eval mode; not touched.
        path: The file. OpenVINO's and ncnn's have their weights beside them in a `.bin`; Core ML's is a folder.
        example: Images (N, C, H, W): their size is the file's, and their batch size unless `dynamic_batch`.
        format: A key of `FORMATS`.
        structure: `deployed`, or `train`: all branches, BatchNorms folded only where the exporter does it.
        precision: `fp32`; `int8` (ONNX, OpenVINO, MNN), quantised on `calibration` from the deployed structure; `fp16`
            (OpenVINO, Core ML): weights in half the bytes. Whether OpenVINO computes in bf16 is said when it loads a
            file.
        opset: ONNX operator set; default: PyTorch's.
        calibration: As in `compile_for`.
        goal: How much top-1 int8 may cost: one way of quantising after another is tried until it holds.

    Raises:
        ValueError: Unknown name, a missing package, a network in training mode, another suffix, a batch that the
            format does not have, a network that its converter does not take, a goal that no way of quantising reaches.
        ParityError: The file's answers differ from PyTorch's. Nothing is written.
        OSError: The file could not be written; what was there before is left.
    """
    path, kind = Path(path), FORMATS.get(format)
    batch_size = None if dynamic_batch else len(example)
    check_request(path, format, structure, precision, opset, batch_size, goal and goal.max_drop)
    assert kind is not None
    batches = calibration_batches(calibration, example) if precision == "int8" else ()
    deployed = deployed_network(model, example)
    said = said_by(model, example)
    source = Source(deployed if structure == "deployed" else model, example, batches)
    way = next(iter(kind.ways.values())) if precision == "int8" else None
    order = Order(source, precision, said, dynamic_batch, opset, way, goal)
    # A batch size that is said to be free is tried with one more image, too.
    pairs = references(deployed, [example, *([torch.cat([example, example[:1]])] if dynamic_batch else [])])
    parity, unchecked = None, kind.unreadable()
    with atomic_files(path) as made:
        nodes, attempts = write_until_it_holds(kind, order, goal, made) if goal else (kind.write(order, made), ())
        if not kind.says:
            made.with_suffix(".json").write_text(said)
        num_bytes = sum(file.stat().st_size for file in made.parent.rglob("*") if file.is_file())
        if unchecked is None:
            parity = compare_engine(kind.read(made, precision), f"the {format} file", precision, deployed, pairs)
    shape, counts = (batch_size, *example.shape[1:]), dict(sorted(nodes.items()))
    return ExportedFile(str(path), format, structure, precision, shape, num_bytes, counts, parity, unchecked, attempts)


def said_by(model: nn.Module, example: Tensor, *, test: bool = False) -> str:
    """Write as JSON what a network says of its images and classes, their size the example's; `test` as in `facts`."""
    said = {**facts(model, test=test), "input_size": example.shape[1:], "class_names": class_names(model)}
    return json.dumps(said)


def write_until_it_holds(
    kind: Format, order: Order, goal: Goal, path: Path
) -> tuple[Mapping[str, int], tuple[Attempt, ...]]:
    """Write the file in one way of quantising after another until its own top-1 reaches the goal.

    A way that fails on the network is passed over.

    Returns: What `Format.write` says of the last file; all attempts, float32 first.

    Raises:
        ValueError: No way reaches the goal; says how far each came.
    """
    attempts: list[Attempt] = []
    failed = ""

    def judge(name: str, run: Run, batch_size: int | None) -> bool:
        attempts.append(Attempt(name, goal.top1(run, batch_size)))
        logger.info("%s: top-1 %.2f %%", name, attempts[-1].top1)
        return attempts[0].top1 - attempts[-1].top1 <= goal.max_drop

    judge("fp32", order.source.network, None)
    for name, way in kind.ways.items():
        try:
            nodes = kind.write(replace(order, way=way), path)
        except ValueError as error:
            logger.warning("%s: %s", name, error)
            failed += f"; {name}: {error}"
            continue
        if judge(name, kind.read(path, "int8"), None if order.free_batch else len(order.source.example)):
            return nodes, tuple(attempts)
    came = ", ".join(f"{attempt.way} {attempt.top1:.2f} %" for attempt in attempts)
    raise ValueError(f"int8 costs more than max_drop={goal.max_drop:g} points of top-1 in every way: {came}{failed}")


def check_request(
    path: Path,
    format: str,
    structure: str,
    precision: str,
    opset: int | None,
    batch_size: int | None,
    max_drop: float | None = None,
) -> None:
    """Refuse what `export_file` cannot write, before there is a network. Raises: ValueError.

    Args:
        batch_size: Images per call; None if it is to be free.
        max_drop: Of the `Goal`, if there is one.
    """
    check_name("format", format, tuple(FORMATS))
    check_name("structure", structure, STRUCTURES)
    kind = FORMATS[format]
    having = [name for name, other in FORMATS.items() if precision in other.precisions]
    if having and format not in having:
        raise ValueError(f"{format} files are not written in {precision}: {', '.join(having)} are")
    check_name(f"precision of {format}", precision, tuple(kind.precisions))
    if max_drop is not None and precision != "int8":
        raise ValueError(f"max_drop is a setting of int8, not of {precision}")
    for package in filter(None, (kind.package, kind.precisions[precision], None if max_drop is None else "nncf")):
        if (reason := missing_package(package)) is not None:
            raise ValueError(reason)
    if not path.name.endswith(kind.suffix):
        raise ValueError(f"{path}: the name of an {format} file ends in {kind.suffix}")
    if structure == "train" and precision != "fp32":
        raise ValueError(f"{precision} is made from the deployed structure: drop structure='train'")
    if opset is not None and format != "onnx":
        raise ValueError("opset is a setting of ONNX files")
    if kind.batch == "one" and batch_size != 1:
        raise ValueError(f"{format} has no batch dimension: its files take one image a call")
    if kind.batch == "fixed" and batch_size is None:
        raise ValueError(f"{format} files take a fixed number of images: leave dynamic_batch out")
