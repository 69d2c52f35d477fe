"""Core ML packages for Apple's devices: written anywhere, run and compared with PyTorch on Apple's systems alone."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections import Counter
from pathlib import Path

import torch

from zoo.export.engines import Run, on_tensors
from zoo.export.formats import Format, Order
from zoo.export.graphs import INPUT, OUTPUT, quiet


def _write(order: Order, path: Path) -> Counter[str]:
    """Write an ML program for iOS 15, macOS 12 and later."""
    source = order.source
    # It draws progress bars on stderr and warns of every release of torch that it was not tried with.
    with warnings.catch_warnings(), quiet("coremltools"), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        import coremltools as ct

        model = ct.convert(
            torch.jit.trace(source.network, source.example),
            inputs=[ct.TensorType(INPUT, shape=tuple(source.example.shape))],
            outputs=[ct.TensorType(OUTPUT)],
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS15,
            compute_precision=ct.precision.FLOAT16 if order.precision == "fp16" else ct.precision.FLOAT32,
            skip_model_load=True,
        )
        assert isinstance(model, ct.models.MLModel)
        model.user_defined_metadata["zoo"] = order.said
        model.save(str(path))
        program = model.get_spec().mlProgram
    blocks = [block for function in program.functions.values() for block in function.block_specializations.values()]
    return Counter(operation.type for block in blocks for operation in block.operations if operation.type != "const")


def _read(path: Path, precision: str) -> Run:
    import coremltools as ct

    model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.CPU_ONLY)
    return on_tensors(lambda images: model.predict({INPUT: images})[OUTPUT])


FILE = Format(
    suffix=".mlpackage",
    package="coreml",
    write=_write,
    read=_read,
    unreadable=lambda: None if sys.platform == "darwin" else "Core ML runs on Apple's systems alone",
    precisions={"fp32": None, "fp16": None},
    batch="fixed",
    says=True,
)
