"""The engine `mnn`: a network converted from ONNX by MNN's own converter."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.export.engines import Run, Source, on_tensors
from zoo.export.formats import Format, Order
from zoo.export.graphs import convert_onnx
from zoo.export.onnx_engine import graph_of
from zoo.runtime.phones import mnn_runner

if TYPE_CHECKING:
    import onnx

# The module `_tools` is the converter. MNN's script `mnnconvert` calls it too, but first starts pip to install a
# logging client, and afterwards reports the conversion to a server. This child has no network where Linux lets a
# process give it up (CLONE_NEWUSER, CLONE_NEWNET), and is a process of its own because the converter ends its own
# on some graphs.
_CONVERT = """
import ctypes, sys
if sys.platform == "linux":
    ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)
import _tools
sys.exit(not _tools.mnnconvert(["MNNConvert", *sys.argv[1:]]))
"""


def mnn(source: Source, precision: str) -> Run:
    """MNN on the CPU, prepared anew for every batch size met."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.mnn")
        write_mnn(source.onnx_graph, file)
        return on_tensors(mnn_runner(file, source.threads))


def write_mnn(graph: onnx.ModelProto, path: Path) -> None:
    """Convert an ONNX graph to the file of MNN.

    Raises:
        ValueError: The converter does not take the graph; with its last line.
    """
    options = ["-f", "ONNX", "--modelFile", "network.onnx", "--MNNModel", str(path.absolute()), "--bizCode", "zoo"]
    convert_onnx(graph, path, "MNN's converter", [sys.executable, "-I", "-c", _CONVERT, *options], env={})


def _write(order: Order, path: Path) -> Counter[str]:
    write_mnn(graph_of(order), path)
    return Counter()  # MNN's Python package does not tell a file's operations


FILE = Format(".mnn", "mnn", _write, lambda path, precision: on_tensors(mnn_runner(path, 1)))
