"""Write a network as an ONNX or OpenVINO file; it is read back and compared before it takes its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from zoo.atomic import atomic_write
from zoo.export.compile import calibration_batches, deployed_network
from zoo.export.engines import Run, Source, check_name, missing_package
from zoo.export.graphs import capture, to_onnx
from zoo.export.onnx_engine import quantize_graph, session
from zoo.export.openvino_engine import compiled, core, ov_shape, quantize_model
from zoo.export.parity import Parity, check_fp32, compare, references

if TYPE_CHECKING:
    import onnx
    import openvino as ov

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
STRUCTURES = ("deployed", "train")
FILE_PRECISIONS = {"onnx": ("fp32", "int8"), "openvino": ("fp32", "fp16", "int8")}


@dataclass(frozen=True)
class ExportedFile:
    """What was written.

    input_shape: (N, C, H, W); N is None if the batch size is free.
    nodes: operation → how often it occurs, constants aside.
    parity: the file, read back by its engine, beside the deployed float32 network in PyTorch; None if ONNX
        Runtime is not installed.
    """

    path: str
    format: str
    structure: str
    precision: str
    input_shape: tuple[int | None, ...]
    num_bytes: int
    nodes: dict[str, int]
    parity: Parity | None


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
) -> ExportedFile:
    """Write a network's graph: input `input` (N, C, H, W), output `output`; the caller normalises the images.

    Args:
        model: Any network in eval mode; not touched.
        path: The file; OpenVINO's `.xml` has its weights beside it in a `.bin`.
        example: Images (N, C, H, W): their size is the file's, and their batch size unless `dynamic_batch`.
        format: `onnx` or `openvino`.
        structure: `deployed`, or `train`: all branches, BatchNorms folded only where the exporter does it.
        precision: `fp32`; `int8`, quantised on `calibration` from the deployed structure; for OpenVINO also
            `fp16`: weights in half the bytes. Whether OpenVINO computes in bf16 is said when it loads a file.
        opset: ONNX operator set; default: PyTorch's.
        calibration: As in `compile_for`.

    Raises:
        ValueError: Unknown name, a missing package, a network in training mode, another suffix.
        ParityError: The file's answers differ from PyTorch's. Nothing is written.
        OSError: The file could not be written; what was there before is left.
    """
    path = Path(path)
    check_request(path, format, structure, precision, opset)
    batches = calibration_batches(calibration, example) if precision == "int8" else ()
    deployed = deployed_network(model, example)
    source = Source(deployed if structure == "deployed" else model, example, batches)
    pairs = references(deployed, [example])
    parity: Parity | None = None

    def prove(run: Run) -> None:
        nonlocal parity
        parity = compare([run(images) for images, _ in pairs], [answer for _, answer in pairs])
        if precision == "fp32":
            check_fp32(parity, f"the {format} file", deployed, pairs)

    if format == "onnx":
        graph = to_onnx(capture(source.network, example, dynamic_batch=dynamic_batch or bool(batches)), opset)
        graph = quantize_graph(graph, batches) if batches else graph
        if not dynamic_batch:
            _fix_batch_size(graph, len(example))  # calibration batches may have had any size
        num_bytes, nodes = _write_onnx(graph, path, prove), _onnx_nodes(graph)
    else:
        model_ = quantize_model(source.openvino_model, batches) if precision == "int8" else source.openvino_model
        model_.reshape(ov_shape(-1 if dynamic_batch else len(example), *example.shape[1:]))
        num_bytes = _write_openvino(model_, path, precision, prove)
        nodes = Counter(op.get_type_name() for op in model_.get_ops())
    nodes = {name: nodes[name] for name in sorted(nodes) if name not in ("Constant", "Parameter", "Result")}
    shape = (None if dynamic_batch else len(example), *example.shape[1:])
    return ExportedFile(str(path), format, structure, precision, shape, num_bytes, nodes, parity)


def check_request(path: Path, format: str, structure: str, precision: str, opset: int | None) -> None:
    """Refuse what `export_file` cannot write, before there is a network. Raises: ValueError."""
    check_name("format", format, tuple(SUFFIXES))
    check_name("structure", structure, STRUCTURES)
    check_name(f"precision of {format}", precision, FILE_PRECISIONS[format])
    needs = [format, *({"onnx": ["onnxruntime"], "openvino": ["nncf"]}[format] if precision == "int8" else [])]
    for reason in map(missing_package, needs):
        if reason is not None:
            raise ValueError(reason)
    if path.suffix != SUFFIXES[format]:
        raise ValueError(f"{path}: the name of an {format} file ends in {SUFFIXES[format]}")
    if structure == "train" and precision != "fp32":
        raise ValueError(f"{precision} is made from the deployed structure: drop structure='train'")
    if opset is not None and format != "onnx":
        raise ValueError("opset is a setting of ONNX files")


def _fix_batch_size(graph: onnx.ModelProto, number: int) -> None:
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = number


def _onnx_nodes(graph: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph.node)


def _write_onnx(graph: onnx.ModelProto, path: Path, prove: Callable[[Run], None]) -> int:
    with atomic_write(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())
        if missing_package("onnxruntime") is None:
            prove(session(str(temporary), 1))
        return temporary.stat().st_size


def _write_openvino(model: ov.Model, path: Path, precision: str, prove: Callable[[Run], None]) -> int:
    import openvino as ov

    # The weights take their name first: an .xml never stands beside another's .bin.
    with atomic_write(path) as xml, atomic_write(path.with_suffix(".bin")) as weights:
        ov.save_model(model, xml, compress_to_fp16=precision == "fp16")
        prove(compiled(core().read_model(xml), "int8" if precision == "int8" else "fp32", 1))
        return xml.stat().st_size + weights.stat().st_size
