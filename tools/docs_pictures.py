"""Draw the pictures of the documentation: the six transforms, and train against deployed structure.

python tools/docs_pictures.py [FOLDER]    writes SVG files, by default into docs/pictures

The kernels in the pictures are computed by `zoo.reparam.algebra`, the times read from results/benchmark.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor

from zoo.reparam.algebra import AffineKernel, add, average, compose, concatenate, embed, per_channel
from zoo.reparam.spec import ConvSpec
from zoo.results.files import Result, read_result
from zoo.results.records import Latency

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "benchmark" / "structures-1.json"
KXK = torch.tensor([[1.0, -2, 1], [0, 4, -1], [2, 1, -1]])
OTHER = torch.tensor([[0.0, 1, 0], [1, -3, 1], [0, 1, 0]])
LARGEST = 6
"""The weight with the strongest colour."""

Part = tuple[Tensor, str] | str
"""Kernels (out, in, height, width) with the words below them, or a sign between two kernels."""


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    mpl.rcParams.update({"svg.hashsalt": "zoo", "font.size": 9, "axes.unicode_minus": True})
    pictures = {name: draw_kernels(parts) for name, parts in transforms().items()}
    pictures["border"] = draw_border()
    pictures["deployed"] = draw_deployed(read_result(RESULTS))
    for name, figure in pictures.items():
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white", bbox_inches="tight")
        plt.close(figure)


def transforms() -> dict[str, Sequence[Part]]:
    """The parts of the picture of each transform, computed by the algebra."""
    three = ConvSpec(in_channels=1, out_channels=1, kernel_size=(3, 3), padding=(1, 1))
    pair = torch.stack([KXK, OTHER])[None]  # one output channel that reads two
    mix = torch.tensor([[1.0, 0], [2, -1]])[..., None, None]
    merged = compose(kernel(mix), kernel(pair))
    corner, row = kernel(torch.tensor([[[[3.0]]]])), kernel(torch.tensor([[[[1.0, -2, 1]]]]))
    row = AffineKernel(row.weight, row.bias, padding=(1, 1, 0, 0))
    normalised = compose(kernel(KXK), per_channel(torch.tensor([0.5]), torch.tensor([1.0])))
    total = add([kernel(KXK), kernel(OTHER)])
    both = kernel(torch.stack([KXK, OTHER])[:, None])
    pool = average(2, (3, 3), (1, 1), (0, 0), KXK)
    diagonal = torch.eye(2)[..., None, None] * pool.weight[:1]
    return {
        "transform1": [(KXK, "convolution"), "then", "× ½ + 1\nBatchNorm", "=", (normalised.weight, "scaled, bias 1")],
        "transform2": [(KXK, "one branch"), "+", (OTHER, "another"), "=", (total.weight, "sum")],
        "transform3": [(mix, "1×1: two in, two out"), "then", (pair, "3×3: two in, one out"), "=",
                       (merged.weight, "3×3: two in, one out")],
        "transform4": [(KXK, "one output"), "beside", (OTHER, "another"), "=",
                       (concatenate([kernel(both.weight[:1]), kernel(both.weight[1:])]).weight, "two outputs")],
        "transform5": ["average of\n3×3 pixels", "=", (diagonal, "each channel its own")],
        "transform6": [(corner.weight, "1×1"), "=", (embed(corner, three).weight, "in the middle"), "  and  ",
                       (row.weight, "1×3"), "=", (embed(row, three).weight, "in the middle row")],
    }  # fmt: skip


def kernel(weight: Tensor) -> AffineKernel:
    """A kernel without bias."""
    weight = weight if weight.ndim == 4 else weight[None, None]
    return AffineKernel(weight, weight.new_zeros(len(weight)))


def draw_kernels(parts: Sequence[Part]) -> plt.Figure:
    """Kernels from left to right, signs between them."""
    figure, axes = plt.subplots()
    x = 0.0
    highest = max(height(part[0]) for part in parts if not isinstance(part, str))
    for part in parts:
        if isinstance(part, str):
            width = max(1.6, 0.38 * max(map(len, part.split("\n"))) + 0.8)
            centred(axes, x + width / 2, 0, part, fontsize=11)
            x += width
        else:
            x += draw_weight(axes, x, *part, bottom=-highest / 2 - 0.25)
    axes.set(xlim=(-0.1, x + 0.1), ylim=(-highest / 2 - 1.1, highest / 2 + 0.1), aspect="equal")
    axes.set_axis_off()
    figure.set_size_inches(0.34 * x, 0.34 * (highest + 1.2))
    return figure


def height(weight: Tensor) -> float:
    rows, taps = (weight.shape[0], weight.shape[2]) if weight.ndim == 4 else (1, weight.shape[0])
    return rows * taps + 0.4 * (rows - 1)


def draw_weight(axes: Axes, left: float, weight: Tensor, words: str, bottom: float) -> float:
    """One grid of cells per pair of channels: outputs downwards, inputs rightwards. The width drawn."""
    weight = weight if weight.ndim == 4 else weight[None, None]
    inputs, taps_y, taps_x = weight.shape[1:]
    top = height(weight) / 2
    width = max(inputs * taps_x + 0.4 * (inputs - 1), 0.38 * len(words))
    start = left + (width - (inputs * taps_x + 0.4 * (inputs - 1))) / 2
    colours = mpl.colormaps["RdBu"]
    for o, i, y, x in torch.cartesian_prod(*map(torch.arange, weight.shape)).tolist():
        value = float(weight[o, i, y, x])
        corner = (start + i * (taps_x + 0.4) + x, top - o * (taps_y + 0.4) - y - 1)
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=colours(0.5 + value / 2 / LARGEST), edgecolor="0.6", lw=0.6))
        text = "1/9" if abs(value - 1 / 9) < 1e-6 else f"{value:g}"
        dark = abs(value) > 0.7 * LARGEST
        centred(axes, corner[0] + 0.5, corner[1] + 0.47, text, fontsize=8,
                  color="white" if dark else "0.75" if value == 0 else "black")  # fmt: skip
    centred(axes, left + width / 2, bottom - 0.3, words, fontsize=8.5, color="0.25")
    return width


def centred(axes: Axes, x: float, y: float, words: str, **look: Any) -> None:
    """Write words around a point."""
    axes.text(x, y, words, ha="center", va="center", **look)


def draw_border() -> plt.Figure:
    """What the 3×3 of Transform III must read around the map that the 1×1 gave."""
    figure, axes = plt.subplots(figsize=(6.6, 2.5))
    for left, border, words in (
        (0, "0", "zeros around it:\nnot one convolution"),
        (9, "b", "its answer to a zero pixel:\nTransform III is exact"),
    ):
        for y in range(5):
            for x in range(5):
                inside = 0 < x < 4 and 0 < y < 4
                colour = "#d6e4f0" if inside else "#fde9d9" if border == "0" else "#dcefdc"
                axes.add_patch(Rectangle((left + x, y), 1, 1, facecolor=colour, edgecolor="0.6", lw=0.6))
                centred(axes, left + x + 0.5, y + 0.47, "y" if inside else border, fontsize=9)
        centred(axes, left + 2.5, -0.9, words, fontsize=8.5, color="0.25")
    centred(axes, 7, 2.5, "or", fontsize=11)
    axes.set(xlim=(-1, 15), ylim=(-1.7, 5.1), aspect="equal")
    axes.set_axis_off()
    return figure


def draw_deployed(result: Result[Latency]) -> plt.Figure:
    """A block before and after, and the measured time of whole networks before and after."""
    figure, (block, bars) = plt.subplots(1, 2, figsize=(9.2, 3.1), width_ratios=[1, 1.9], layout="constrained")
    draw_block(block)
    draw_times(bars, result)
    return figure


def draw_block(axes: Axes) -> None:
    """RepVGG's block: three branches and a sum, then one convolution."""

    def box(x: float, words: str, colour: str) -> None:
        style = "round,pad=0.05"
        axes.add_patch(FancyBboxPatch((x - 1, 1.72), 2, 0.56, style, facecolor=colour, edgecolor="0.4", lw=0.8))
        centred(axes, x, 1.98, words, fontsize=8)

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "lw": 0.8, "color": "0.35"})

    def line(start: tuple[float, float], end: tuple[float, float]) -> None:
        axes.plot(*zip(start, end, strict=True), lw=0.8, color="0.35", zorder=0)

    for x, words in ((0, "3×3, BN"), (2.5, "1×1, BN"), (5, "BN")):
        box(x, words, "#fde3c8")
        arrow((2.5, 3.35), (x, 2.25))
        line((x, 1.7), (2.5, 0.75))
    circle = {"boxstyle": "circle,pad=0.1", "fc": "white", "ec": "0.4", "lw": 0.8}
    centred(axes, 2.5, 0.7, "+", fontsize=12, bbox=circle)
    centred(axes, 2.5, 3.5, "x", style="italic")
    arrow((2.5, 0.45), (2.5, -0.15))
    axes.text(2.5, 4.1, "trained", ha="center", fontsize=10, color="#b35900")
    centred(axes, 7.1, 1.98, "=", fontsize=16)
    box(9.2, "3×3", "#cfe2f3")
    centred(axes, 9.2, 3.5, "x", style="italic")
    arrow((9.2, 3.35), (9.2, 2.25))
    arrow((9.2, 1.7), (9.2, -0.15))
    axes.text(9.2, 4.1, "deployed", ha="center", fontsize=10, color="#1f5f99")
    axes.set(xlim=(-1.2, 10.4), ylim=(-0.2, 4.5))
    axes.set_axis_off()


def draw_times(axes: Axes, result: Result[Latency]) -> None:
    """Train and deployed structure on one engine, medians with the middle half of the samples."""
    records = {(record.model, record.structure): record for record in result.records if record.engine == "onnxruntime"}
    names = list(dict.fromkeys(model for model, _ in records))
    for shift, structure, colour in ((-0.2, "train", "#e69138"), (0.2, "deployed", "#3d85c6")):
        middles, lows, highs = zip(*(quartiles(records[name, structure]) for name in names), strict=True)
        y = [i + shift for i in range(len(names))]
        axes.barh(y, middles, 0.38, color=colour, label=f"{structure} structure")
        axes.hlines(y, lows, highs, color="0.35", lw=0.8)
    for i, name in enumerate(names):
        (train, *_), (deployed, _, high) = quartiles(records[name, "train"]), quartiles(records[name, "deployed"])
        words = f"{train / deployed:.1f}× as fast"
        axes.text(high + 2, i + 0.2, words, va="center", fontsize=8, color="#1f5f99")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    cpu, runtime = result.environment.cpu.model.replace("(R)", ""), result.environment.versions["onnxruntime"]
    samples = len(records[names[0], "train"].samples)
    engine = f"ms per image at 224², ONNX Runtime {runtime} fp32, one thread of a"
    axes.set_xlabel(f"{engine}\n{cpu}; bars: medians of {samples}, lines: their middle half", fontsize=8)


def quartiles(record: Latency) -> tuple[float, float, float]:
    """The median of a record's samples, and the ends of their middle half, in milliseconds."""
    low, middle, high = statistics.quantiles(record.samples, n=4, method="inclusive")
    return 1e3 * middle, 1e3 * low, 1e3 * high


if __name__ == "__main__":
    main()
