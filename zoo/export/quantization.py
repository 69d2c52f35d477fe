"""The effect of int8 on a deployed network, layer by layer: weight ranges, and signal to quantisation noise.

Folding multiplies each output channel's weights by its BatchNorm's scale and adds branches of unlike sizes: the
channels' ranges drift apart, one scale for all of them wastes most channels' bits, and a few large weights make
the steps coarse. That is how such networks lose accuracy in int8 (Chu et al., Make RepVGG Greater Again: A
Quantization-aware Approach, arXiv 2212.01593), and what this report shows.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.compare import compare, decibels
from zoo.export.compile import deployed_network
from zoo.export.splitting import round_weight
from zoo.reparam.block import MultiBranchConv2d
from zoo.results.table import Column, Table, significant

Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class LayerReport:
    """One convolution or linear layer of the deployed network, alone in int8.

    max_weight: max |w|.
    growth: max |w| over what it was before folding, in the largest of the block's branches; None if the
        layer had no counterpart of its name.
    spread: max |w| of the widest output channel over that of the median channel. One scale for the whole
        tensor costs the median channel log2(spread) bits.
    per_channel_db, per_tensor_db: SQNR of the output, int8 weights with a scale per output channel or one.
    activation_db: SQNR of the output, float weights, the input in 8 bits over its range on the images.
    """

    name: str
    max_weight: float
    growth: float | None
    spread: float
    per_channel_db: float
    per_tensor_db: float
    activation_db: float


@dataclass(frozen=True)
class QuantizationReport:
    """The layers, and what all of them together do to the network's output.

    output_db: SQNR of the output, every layer in int8: weights per channel, inputs per tensor.
    """

    layers: list[LayerReport]
    output_db: float

    def table(self) -> str:
        """Write the report as a table: one line a layer, then the network."""
        decimal = "{:.1f}".format
        columns = [
            Column("layer", lambda layer: layer.name),
            Column("max|w|", lambda layer: layer.max_weight, significant),
            Column("growth", lambda layer: layer.growth, "{:.2f}".format),
            Column("spread", lambda layer: layer.spread, decimal),
            Column("SQNR, dB: weights per channel", lambda layer: layer.per_channel_db, decimal),
            Column("weights per tensor", lambda layer: layer.per_tensor_db, decimal),
            Column("activations", lambda layer: layer.activation_db, decimal),
        ]
        lines = [Table(columns, self.layers).text(), f"output, all layers in int8: SQNR {self.output_db:.1f} dB"]
        return "\n".join(lines)


def quantization_report(model: nn.Module, calibration: Iterable[Tensor]) -> QuantizationReport:
    """Simulate int8 on the deployed structure: each layer alone, then all together.

    Rounding to nearest over minimum-maximum ranges, in PyTorch: it shows which layers lose, for any engine, not
    the last decibel of one engine.

    Args:
        model: Any network in eval mode; not touched.
        calibration: Batches of normalised images (N, C, H, W); some dozens of images are enough.

    Raises:
        ValueError: No images; a network in training mode.
    """
    batches = [batch.detach().float() for batch in calibration]
    if not batches:
        raise ValueError("calibration holds no images")
    network = deployed_network(model, batches[0])
    layers = {name: one for name, one in network.named_modules() if isinstance(one, (nn.Conv2d, nn.Linear))}
    with torch.no_grad():
        ranges, exact = _input_ranges(network, layers, batches)
        figures = _alone(network, layers, ranges, batches)
        rounded = _all_in_int8(network, ranges)
        noisy = [rounded(images) for images in batches]
    before = _weights_before(model)
    reports = [_report(name, one, before.get(name), *figures[name]) for name, one in layers.items() if name in figures]
    return QuantizationReport(reports, compare(noisy, exact).sqnr_db)


def _report(name: str, layer: Layer, before: float | None, *decibels: float) -> LayerReport:
    channels = layer.weight.detach().flatten(1).abs().amax(1)
    largest = float(channels.max())
    growth = largest / before if before else None
    return LayerReport(name, largest, growth, largest / max(float(channels.median()), 1e-30), *decibels)


def _weights_before(model: nn.Module) -> dict[str, float]:
    """Name of a layer or block → max |w| before folding, over a block's branches."""
    largest: dict[str, float] = {}
    for name, module in model.named_modules():
        if isinstance(module, (MultiBranchConv2d, nn.Conv2d, nn.Linear)):
            parts = [part for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
            largest[name] = max((float(part.weight.detach().abs().max()) for part in parts), default=0.0)
    return largest


Ranges = dict[str, tuple[float, float]]


def _watch(
    network: nn.Module, layers: dict[str, Layer], batches: list[Tensor], see: Callable[[str, Tensor, Tensor], None]
) -> list[Tensor]:
    """Run a network, with `see(name, input, output)` called for each layer as it computes; the network's outputs."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        return lambda _, inputs, output: see(name, inputs[0], output)

    with contextlib.ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(hook(name)).remove)
        return [network(images) for images in batches]


def _input_ranges(network: nn.Module, layers: dict[str, Layer], batches: list[Tensor]) -> tuple[Ranges, list[Tensor]]:
    """(smallest, largest) input of every layer over all images, zero included; and the network's outputs."""
    ranges: Ranges = {}

    def widen(name: str, x: Tensor, _: Tensor) -> None:
        low, high = ranges.get(name, (0.0, 0.0))
        ranges[name] = (min(low, float(x.min())), max(high, float(x.max())))

    outputs = _watch(network, layers, batches, widen)
    return ranges, outputs


def _alone(
    network: nn.Module, layers: dict[str, Layer], ranges: Ranges, batches: list[Tensor]
) -> dict[str, tuple[float, ...]]:
    """SQNR in dB of each layer's output on the float network's inputs: weights per channel, per tensor, input."""
    energy = {name: torch.zeros(4, dtype=torch.float64) for name in ranges}  # of the output, and of three noises

    def measure(name: str, x: Tensor, output: Tensor) -> None:
        layer = layers[name]
        variants = (
            _apply(layer, x, round_weight(layer.weight, per_channel=True)),
            _apply(layer, x, round_weight(layer.weight, per_channel=False)),
            _apply(layer, round_input(x, *ranges[name]), layer.weight),
        )
        terms = [output, *(variant - output for variant in variants)]
        energy[name] += torch.stack([term.double().square().sum() for term in terms]).cpu()

    _watch(network, layers, batches, measure)
    return {name: tuple(decibels(float(e[0]), float(noise)) for noise in e[1:]) for name, e in energy.items()}


def _all_in_int8(network: nn.Module, ranges: Ranges) -> nn.Module:
    """A copy with every layer's weights rounded per channel and its input to 8 bits."""

    def round_inputs(low: float, high: float) -> Callable[[nn.Module, tuple[Tensor]], Tensor]:
        return lambda _, inputs: round_input(inputs[0], low, high)

    copied = copy.deepcopy(network)
    for name, (low, high) in ranges.items():
        layer = copied.get_submodule(name)
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        layer.weight.copy_(round_weight(layer.weight, per_channel=True))
        layer.register_forward_pre_hook(round_inputs(low, high))
    return copied


def round_input(x: Tensor, low: float, high: float) -> Tensor:
    """A tensor on 256 levels between low ≤ 0 and high ≥ 0, of which one is exactly 0."""
    scale = max((high - low) / 255, 1e-30)
    zero = round(-low / scale)
    return (((x / scale).round() + zero).clamp(0, 255) - zero) * scale


def _apply(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """The layer with another weight."""
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(x, weight, layer.bias)
    return layer._conv_forward(x, weight, layer.bias)
