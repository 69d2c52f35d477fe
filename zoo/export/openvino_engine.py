"""The engine `openvino`, its int8 by NNCF's post-training quantisation, and its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo.export.cpu import has_bf16
from zoo.export.engines import Run, Source, on_tensors
from zoo.export.formats import Format, Order, Way
from zoo.export.int8 import MIXED, SPLIT, by_nncf, by_sensitivity
from zoo.runtime.engines import in_a_thread, openvino_core

if TYPE_CHECKING:
    import numpy as np
    import openvino as ov

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
SHAPES_KEPT = 4


def openvino(source: Source, precision: str) -> Run:
    """OpenVINO on the CPU, compiled for every batch size met: static shapes run faster than a free one."""
    model = source.openvino_model
    if precision == "int8":
        model = quantize_model(model, source.calibration)
    return compiled(model, precision, source.threads)


def settings_for(precision: str, threads: int) -> dict[str, Any]:
    """OpenVINO's settings of a compiled model.

    By its own choice OpenVINO computes "fp32" in bf16 on CPUs that can, so the precision is always said. What int8
    leaves in floating point runs in bf16 there. A pinned thread shares its core with every other process that pins,
    and gains nothing alone.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": HINTS[("bf16" if has_bf16() else "fp32") if precision == "int8" else precision],
    }


def compiled(model: ov.Model, precision: str, threads: int) -> Run:
    """Run an OpenVINO model. The last few input shapes are kept compiled. Not for concurrent calls."""
    config = settings_for(precision, threads)

    @lru_cache(maxsize=SHAPES_KEPT)
    def request(shape: tuple[int, ...]) -> ov.InferRequest:
        fixed = model.clone()
        fixed.reshape([*shape])
        return openvino_core().compile_model(fixed, "CPU", config).create_infer_request()

    def run(images: np.ndarray) -> np.ndarray:
        answer = request(images.shape)
        answer.infer({0: images}, share_inputs=True, share_outputs=True)
        return answer.get_output_tensor(0).data.copy()  # the next call overwrites it

    return on_tensors(run)


def quantize_model(model: ov.Model, calibration: Sequence[Tensor], **options: Any) -> ov.Model:
    """Post-training quantisation: weights per channel, activations per tensor, biases corrected.

    In a network with depthwise convolutions only dense convolutions on maps and linear layers become int8:
    OpenVINO has no int8 kernel for depthwise ones, so that quantising these, and the additions and gates
    between them, costs accuracy and conversions and gains no time. Elsewhere everything becomes int8.

    Args:
        options: Of `nncf.AdvancedQuantizationParameters`.
    """
    model = _of_any_batch(model, calibration)
    return in_a_thread(by_nncf, model, [*map(_as_item, calibration)], _kept_in_float(model), **options)


def _by_ranges(order: Order, **options: Any) -> ov.Model:
    return quantize_model(order.source.openvino_model, order.source.calibration, **options)


def _cut_tails(order: Order) -> ov.Model:
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    return _by_ranges(order, activations_range_estimator_params=RangeEstimatorParametersSet.MEAN_QUANTILE)


def _align_channels(order: Order) -> ov.Model:
    """Quantise after rescaling weights of neighbouring layers against each other. Raises: ValueError if NNCF cannot."""
    try:
        return _by_ranges(order, disable_channel_alignment=False)
    except (KeyError, AttributeError) as error:  # of NNCF 3.4, wherever there are channels to align
        raise ValueError(f"this version of NNCF aligns no channels ({type(error).__name__}: {error})") from error


def _mix(order: Order) -> ov.Model:
    assert order.goal is not None

    def runner(judged: ov.CompiledModel) -> Run:
        return on_tensors(lambda images: judged(images)[0])

    calibration = order.source.calibration
    model = _of_any_batch(order.source.openvino_model, calibration)
    items = [*map(_as_item, calibration)]
    return in_a_thread(by_sensitivity, model, items, _kept_in_float(model), order.goal, _as_item, runner)


WAYS: dict[str, Way] = {
    "mean range": _by_ranges,
    "quantiles": _cut_tails,
    "aligned channels": _align_channels,
    SPLIT: lambda order: _by_ranges(order.split()),
    MIXED: _mix,
}


def _of_any_batch(model: ov.Model, images: Sequence[Tensor]) -> ov.Model:
    """A copy that takes any number of such images."""
    model = model.clone()
    model.reshape([-1, *images[0].shape[1:]])
    return model


def _as_item(images: Tensor) -> np.ndarray:
    return images.contiguous().numpy()


def _kept_in_float(model: ov.Model) -> list[str]:
    """Names of the operations that int8 leaves alone."""
    operations = model.get_ops()
    if all(op.get_type_name() != "GroupConvolution" for op in operations):
        return []
    return [op.get_friendly_name() for op in operations if not _is_dense_layer(op)]


def _is_dense_layer(op: ov.Node) -> bool:
    """A linear layer, or an ungrouped convolution that makes maps (squeeze-and-excitation makes 1×1)."""
    import openvino as ov

    kind, size = op.get_type_name(), op.get_output_partial_shape(0)[2:]
    return kind == "MatMul" or (kind == "Convolution" and size != ov.PartialShape([1, 1]))


def _write(order: Order, path: Path) -> Counter[str]:
    import openvino as ov

    source = order.source
    model = order.way(order) if order.way else source.openvino_model
    model.reshape([-1 if order.free_batch else len(source.example), *source.example.shape[1:]])
    model.set_rt_info(order.said, "zoo")
    ov.save_model(model, path, compress_to_fp16=order.precision == "fp16")
    kinds = (op.get_type_name() for op in model.get_ops())
    return Counter(kind for kind in kinds if kind not in ("Constant", "Parameter", "Result"))


FILE = Format(
    suffix=".xml",
    package="openvino",
    write=_write,
    read=lambda path, precision: compiled(
        openvino_core().read_model(path), "int8" if precision == "int8" else "fp32", 1
    ),
    precisions={"fp32": None, "fp16": None, "int8": "nncf"},
    ways=WAYS,
    says=True,
)
