"""The engine `openvino`, and its int8 by NNCF's post-training quantisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from zoo.export.cpu import has_bf16
from zoo.export.engines import Run, Source
from zoo.export.graphs import quiet

if TYPE_CHECKING:
    import openvino as ov

T = TypeVar("T")
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
SHAPES_KEPT = 4


def openvino(source: Source, precision: str) -> Run:
    """OpenVINO on the CPU, compiled for every batch size met: static shapes run faster than a free one."""
    model = source.openvino_model
    if precision == "int8":
        model = quantize_model(model, source.calibration)
    return compiled(model, precision, source.threads)


@cache
def core() -> ov.Core:
    """The one Core of this process, its CPU plugin loaded."""
    import openvino as ov

    made = ov.Core()
    _in_a_thread(made.get_property, "CPU", "FULL_DEVICE_NAME")
    return made


def _in_a_thread(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call in a thread of its own what may load or unload OpenVINO's CPU plugin.

    Each load gives the calling thread another stack for signals, and each unload brings the one before back, even
    if that is unmapped by then: the next signal (Ctrl-C, a child that ends) would kill the process.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *args, **kwargs).result()


def compiled(model: ov.Model, precision: str, threads: int) -> Run:
    """Run an OpenVINO model. The last few input shapes are kept compiled. Not for concurrent calls."""
    # By its own choice OpenVINO computes "fp32" in bf16 on CPUs that can, so the precision is always said.
    # What int8 leaves in floating point runs in bf16 there. A pinned thread shares its core with every other
    # process that pins, and gains nothing alone.
    hint = HINTS["bf16" if has_bf16() else "fp32"] if precision == "int8" else HINTS[precision]
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": hint,
    }

    @lru_cache(maxsize=SHAPES_KEPT)
    def request(shape: tuple[int, ...]) -> ov.InferRequest:
        fixed = model.clone()
        fixed.reshape(ov_shape(*shape))
        return core().compile_model(fixed, "CPU", config).create_infer_request()

    def run(images: Tensor) -> Tensor:
        answer = request(tuple(images.shape))
        answer.infer({0: images.contiguous().numpy()}, share_inputs=True, share_outputs=True)
        return torch.from_numpy(answer.get_output_tensor(0).data.copy())  # the next call overwrites it

    return run


def quantize_model(model: ov.Model, calibration: Sequence[Tensor]) -> ov.Model:
    """Post-training quantisation: weights per channel, activations per tensor, biases corrected.

    In a network with depthwise convolutions only dense convolutions on maps and linear layers become int8:
    OpenVINO has no int8 kernel for depthwise ones, so that quantising these, and the additions and gates
    between them, costs accuracy and conversions and gains no time. Elsewhere everything becomes int8.
    """
    import nncf

    model = model.clone()
    model.reshape(ov_shape(-1, *calibration[0].shape[1:]))
    with quiet("nncf"):
        return _in_a_thread(
            nncf.quantize,
            model,
            nncf.Dataset([batch.contiguous().numpy() for batch in calibration]),
            subset_size=len(calibration),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            ignored_scope=nncf.IgnoredScope(names=_kept_in_float(model), validate=False),
        )


def _kept_in_float(model: ov.Model) -> list[str]:
    """Names of the operations that int8 leaves alone."""
    operations = model.get_ops()
    if all(op.get_type_name() != "GroupConvolution" for op in operations):
        return []
    return [op.get_friendly_name() for op in operations if not _is_dense_layer(op)]


def _is_dense_layer(op: ov.Node) -> bool:
    """A linear layer, or an ungrouped convolution that makes maps (squeeze-and-excitation makes 1×1)."""
    kind = op.get_type_name()
    return kind == "MatMul" or (kind == "Convolution" and op.get_output_partial_shape(0)[2:] != ov_shape(1, 1))


def ov_shape(*sizes: int) -> ov.PartialShape:
    """A shape with -1 for a free size."""
    import openvino as ov

    return ov.PartialShape(list(sizes))
