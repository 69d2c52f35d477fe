"""The engine `ncnn`: a network converted from ONNX by pnnx. It knows no batch: images are taken one by one."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.export.engines import Run, Source, on_tensors
from zoo.export.formats import Format, Order
from zoo.export.graphs import convert_onnx
from zoo.export.onnx_engine import graph_of
from zoo.runtime.phones import ncnn_runner

if TYPE_CHECKING:
    import onnx


def ncnn(source: Source, precision: str) -> Run:
    """ncnn on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.ncnn.param")
        write_ncnn(source.onnx_graph, source.example.shape[1:], file)
        return on_tensors(ncnn_runner(file, source.threads))


def write_ncnn(graph: onnx.ModelProto, image_shape: Sequence[int], path: Path) -> None:
    """Convert an ONNX graph to the two files of ncnn, weights in float32.

    Args:
        image_shape: (C, H, W). The files take one image at a time.
        path: The layers, `NAME.ncnn.param`; their weights go beside it into `NAME.ncnn.bin`.

    Raises:
        ValueError: pnnx does not take the graph, with its last line; or ncnn has no layer for a part of it.
    """
    import pnnx

    size = ",".join(map(str, (1, *image_shape)))
    files = [f"ncnnparam={path.absolute()}", f"ncnnbin={path.absolute().with_suffix('.bin')}"]
    command = [pnnx.EXEC_PATH, "network.onnx", f"inputshape=[{size}]f32", "fp16=0", *files]
    convert_onnx(graph, path, "pnnx", command)
    if foreign := [kind for kind in layers(path) if "." in kind or "::" in kind]:
        raise ValueError(f"ncnn has no layer for {', '.join(foreign)} of this network")


def layers(path: Path) -> Counter[str]:
    """Count the layers of an ncnn file by kind, its input and the copies of blobs aside."""
    lines = path.read_text().splitlines()[2:]  # a magic number, and how many layers and blobs there are
    return Counter(kind for kind in (line.split()[0] for line in lines) if kind not in ("Input", "Split"))


def _write(order: Order, path: Path) -> Counter[str]:
    write_ncnn(graph_of(order), order.source.example.shape[1:], path)
    return layers(path)


FILE = Format(".ncnn.param", "ncnn", _write, lambda path, precision: on_tensors(ncnn_runner(path, 1)), batch="one")
