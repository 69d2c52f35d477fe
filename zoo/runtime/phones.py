"""The engines of phones, ncnn and MNN, on any CPU: numpy arrays in and out, in float32."""

# pyright: reportAttributeAccessIssue=false
# ncnn and MNN are native modules without stubs.

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import MNN

Array = NDArray[np.float32]

SHAPES_KEPT = 4
WINOGRAD_MEMORY_LEVEL, SMALL_TILES = 3, 1
"""MNN's hint and its value here: Winograd on 2×2 tiles. The larger tiles of its default lose two digits of fp32."""


def ncnn_runner(path: Path, threads: int) -> Callable[[Array], Array]:
    """Run ncnn files (NAME.param and NAME.bin), image by image: ncnn knows no batch. Not for concurrent calls.

    Raises:
        ValueError: They are no files of ncnn, or have layers that it does not know.
    """
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    # On Arm ncnn computes in half precision by its own choice.
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise ValueError("no ncnn files, or with layers that this ncnn does not know")
    (entry,), (exit_,) = net.input_names(), net.output_names()

    def answer(image: Array) -> Array:
        extractor = net.create_extractor()
        extractor.input(entry, ncnn.Mat(image))  # a view, which keeps nothing alive
        return np.array(extractor.extract(exit_)[1])

    return lambda images: np.stack([answer(image) for image in np.ascontiguousarray(images)])


def mnn_runner(path: Path, threads: int) -> Callable[[Array], Array]:
    """Run an MNN file. The last few input shapes are kept prepared. Not for concurrent calls.

    Raises:
        ValueError: It is no MNN file.
    """
    interpreter = mnn_interpreter(path)

    @lru_cache(maxsize=SHAPES_KEPT)
    def prepared(shape: tuple[int, ...]) -> MNN.Session:
        return mnn_session(interpreter, threads, {None: shape})

    def run(images: Array) -> Array:
        ready = prepared(images.shape)
        interpreter.getSessionInput(ready).copyFrom(mnn_tensor(images))
        interpreter.runSession(ready)
        output = interpreter.getSessionOutput(ready)
        answer = mnn_tensor(np.empty(output.getShape(), np.float32))
        output.copyToHostTensor(answer)
        return answer.getNumpyData().copy()

    return run


def mnn_interpreter(path: Path) -> MNN.Interpreter:
    """Read an MNN file. Raises: ValueError: It is none."""
    with _native_output_on_stderr():
        import MNN

        try:
            interpreter = MNN.Interpreter(str(path))
        except Exception as error:  # MNN raises no other class
            raise ValueError(f"no MNN file ({error})") from None
    interpreter.setSessionHint(WINOGRAD_MEMORY_LEVEL, SMALL_TILES)
    return interpreter


def mnn_session(
    interpreter: MNN.Interpreter, threads: int, shapes: Mapping[str | None, tuple[int, ...]]
) -> MNN.Session:
    """Prepare a network for inputs of these shapes, by name (None: the only one), on the CPU in float32."""
    with _native_output_on_stderr():
        made = interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
        for name, shape in shapes.items():
            interpreter.resizeTensor(interpreter.getSessionInput(made, *([name] if name else [])), shape)
        interpreter.resizeSession(made)
    return made


def mnn_tensor(values: Array) -> MNN.Tensor:
    """Copy an array to a tensor of MNN's, its dimensions in the same order."""
    import MNN

    return MNN.Tensor(values.shape, MNN.Halide_Type_Float, np.ascontiguousarray(values), MNN.Tensor_DimensionType_Caffe)


@contextlib.contextmanager
def _native_output_on_stderr() -> Iterator[None]:
    """Send what native code prints to stderr: MNN greets on stdout, where zoo prints JSON."""
    library = ctypes.CDLL(None)
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        library.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
