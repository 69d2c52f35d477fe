"""The engines that run an exported file, by its ending: numpy arrays in and out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from zoo.cores import available_cores
from zoo.runtime.phones import Array, mnn_runner, ncnn_runner

if TYPE_CHECKING:
    import onnxruntime as ort
    import openvino as ov

T = TypeVar("T")


class Session(NamedTuple):
    """A file, ready to run.

    run: Normalised images (N, 3, H, W) → logits (N, classes). batch_size: N, None if it is free. said: JSON that the
    exporter wrote of images and classes, None if there is none.
    """

    run: Callable[[Array], Array]
    batch_size: int | None
    said: str | None


class Kind(NamedTuple):
    """A kind of file: its engine's package, and how it is opened."""

    package: str
    open: Callable[[Path], Session]


def open_session(path: str | Path) -> Session:
    """Open an exported file in its engine.

    Raises:
        ValueError: No kind of file that an engine here runs, a package that is not installed, or a damaged file; one
            line that names the file.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    if path.suffix not in KINDS:
        raise ValueError(f"{path}: runs are {', '.join(KINDS)} files; `zoo export` writes them")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    kind = KINDS[path.suffix]
    if importlib.util.find_spec(kind.package) is None:
        raise ValueError(f"{path}: {kind.package} is not installed: pip install {kind.package}")
    try:
        return kind.open(path)
    except Exception as error:  # the classes of the engines' own exceptions have nothing in common
        what = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: {kind.package} cannot open it: {what}") from error


def onnx_session(graph: bytes | str, threads: int = 0) -> ort.InferenceSession:
    """Load a serialised ONNX graph, or the file of that name, on the CPU; 0 threads: one a core."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only: warnings go to stderr past Python
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _onnxruntime(path: Path) -> Session:
    session = onnx_session(str(path))
    (images,) = session.get_inputs()
    number = images.shape[0]
    return Session(
        run=lambda batch: np.asarray(session.run(None, {images.name: batch})[0]),
        batch_size=number if isinstance(number, int) else None,
        said=session.get_modelmeta().custom_metadata_map.get("zoo"),
    )


def _openvino(path: Path) -> Session:
    # By its own choice OpenVINO computes float32 in bf16 on CPUs that can.
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino_core().read_model(path)
    compiled = openvino_core().compile_model(model, "CPU", hints)
    number = model.inputs[0].get_partial_shape()[0]
    return Session(
        run=lambda batch: compiled({0: batch})[0],
        batch_size=None if number.is_dynamic else number.get_length(),
        said=model.get_rt_info("zoo").astype(str) if model.has_rt_info("zoo") else None,
    )


def _on_phones(runner: Callable[[Path, int], Callable[[Array], Array]], path: Path) -> Session:
    """Open a phone's file; what is said of its images is in a JSON file beside it, as it has no place for that."""
    side = path.with_suffix(".json")
    return Session(runner(path, available_cores()), None, side.read_text() if side.is_file() else None)


KINDS = {
    ".onnx": Kind("onnxruntime", _onnxruntime),
    ".xml": Kind("openvino", _openvino),
    ".param": Kind("ncnn", partial(_on_phones, ncnn_runner)),
    ".mnn": Kind("MNN", partial(_on_phones, mnn_runner)),
}
"""Ending → kind of file."""


@cache
def openvino_core() -> ov.Core:
    """The one Core of this process, its CPU plugin loaded."""
    import openvino as ov

    made = ov.Core()
    in_a_thread(made.get_property, "CPU", "FULL_DEVICE_NAME")
    return made


def in_a_thread(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call in a thread of its own what may load or unload OpenVINO's CPU plugin.

    Each load gives the calling thread another stack for signals, and each unload brings the one before back, even
    if that is unmapped by then: the next signal (Ctrl-C, a child that ends) would kill the process.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *args, **kwargs).result()
