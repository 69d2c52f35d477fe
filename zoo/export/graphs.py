"""A network captured as a graph: by torch.export, and from there for ONNX and for OpenVINO."""

from __future__ import annotations

import contextlib
import io
import logging
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

if TYPE_CHECKING:
    import onnx
    import openvino as ov

INPUT, OUTPUT = "input", "output"


def capture(network: nn.Module, example: Tensor, *, dynamic_batch: bool = True) -> ExportedProgram:
    """`torch.export` of a network; the example's batch size is fixed unless `dynamic_batch`."""
    if not dynamic_batch:
        return torch.export.export(network, (example,))
    pair = example[:1].repeat(2, 1, 1, 1)  # a batch of one would be taken for a constant
    return torch.export.export(network, (pair,), dynamic_shapes=({0: Dim("batch", min=1, max=65536)},))


def to_onnx(program: ExportedProgram, opset: int | None = None) -> onnx.ModelProto:
    """The ONNX graph of a captured network: one input `input`, one output `output`.

    Raises:
        ValueError: The exporter cannot write this operator set.
    """
    with quiet("onnxscript"):  # where it cannot, it says so at length and keeps its own
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
    assert exported is not None
    graph = exported.model_proto
    (written,) = (entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))
    if opset not in (None, written):
        raise ValueError(f"ONNX operator set {opset} cannot be written for this network, {written} can")
    return graph


def to_openvino(program: ExportedProgram | nn.Module, example: Tensor | None = None) -> ov.Model:
    """The OpenVINO model of a captured network; OpenVINO leaves its height and width free too.

    Args:
        example: Images to trace a network on that cannot be captured: NNCF's quantisers, which become FakeQuantize.
    """
    import openvino as ov

    with quiet("nncf"), unadvised(torch.jit.TracerWarning):  # NNCF reads its settings as it goes
        model = ov.convert_model(program, example_input=example)
    model.inputs[0].set_names({INPUT})
    model.outputs[0].set_names({OUTPUT})
    return model


def read_openvino(graph: onnx.ModelProto) -> ov.Model:
    """The OpenVINO model of an ONNX graph, simplified."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.onnx")
        file.write_bytes(graph.SerializeToString())
        return ov.convert_model(file)


def convert_onnx(
    graph: onnx.ModelProto,
    path: Path,
    converter: str,
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Make an ONNX graph another engine's file by that engine's own converter, in a process of its own.

    Args:
        path: The file that it is to write.
        converter: Its name, for the message.
        command: Its command line; it finds the graph in `network.onnx` and may write other files beside that.
        beside: Name → text of what else it finds there.

    Raises:
        ValueError: It does not take the graph; with its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "network.onnx").write_bytes(graph.SerializeToString())
        for name, text in (beside or {}).items():
            Path(folder, name).write_text(text)
        child = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, errors="replace")
    if child.returncode or not path.is_file():
        last = (child.stdout + child.stderr).strip().rpartition("\n")[2]
        raise ValueError(f"{converter} does not take this network (exit code {child.returncode}): {last}")


@contextlib.contextmanager
def quiet(logger_name: str) -> Iterator[None]:
    """Keep a library's progress bars off stdout (only the command line writes there) and its notes off the log."""
    logger = logging.getLogger(logger_name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def unadvised(*also: type[Warning]) -> Iterator[None]:
    """Keep back torch's advice against TorchScript, whoever asks for it has a reason; and these warnings."""
    with warnings.catch_warnings():
        for kind in (FutureWarning, DeprecationWarning, *also):
            warnings.simplefilter("ignore", kind)
        yield
