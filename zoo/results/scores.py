"""Pictures of how well a network classifies: its confusion matrix, its classes, a training's curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from zoo.results.plots import COLOURS, GREY, STYLE, axes_of, legend_below

MAX_LABELS = 50
"""classes beyond which names on the axes would overlap"""


@rc_context(STYLE)
def confusion_matrix(counts: NDArray[np.integer[Any]], classes: Sequence[str]) -> Figure:
    """Colour each cell (true class, predicted class) by its share of the true class; name and count few classes."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(4 + 0.35 * len(classes), 20.0)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(classes) <= MAX_LABELS:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
        for row, column in np.argwhere(counts).tolist():
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, label="share of the true class", shrink=0.7)
    return figure


@rc_context(STYLE)
def class_accuracy(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the top-1 of each class that has images as a bar, the worst on top; of many classes the worst alone.

    Args:
        rows: A class each: name, count, top1 in percent.
    """
    judged = sorted((row for row in rows if row["count"]), key=lambda row: row["top1"])
    shown = judged[:MAX_LABELS]
    which = "" if len(shown) == len(judged) else f", the worst {len(shown)} of {len(judged)}"
    figure, axes = axes_of(f"Top-1 of each class{which}", "top-1, %", "", height=1.2 + 0.22 * len(shown))
    axes.barh(range(len(shown)), [row["top1"] for row in shown], color=COLOURS[0])
    axes.set_yticks(range(len(shown)), [f"{row['name']} ({row['count']})" for row in shown])
    axes.set_xlim(0, 100)
    axes.invert_yaxis()
    if mean := [row["top1"] for row in judged]:
        axes.axvline(float(np.mean(mean)), color=GREY, linestyle="--")
    return figure


@rc_context(STYLE)
def curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw loss and accuracy over the epochs of a training: the rows of its summary.csv."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    marks = {}
    panels = {"loss": ("train_loss", "loss", "ema_loss"), "top-1, %": ("top1", "ema_top1")}
    names = {"train_loss": "training", "loss": "validation", "ema_loss": "validation, averaged weights"}
    for axes, (label, keys) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(color="#d8dde3", linewidth=0.8)
        for key in keys:
            points = [(row["epoch"], row[key]) for row in history if row.get(key) is not None]
            if points:
                name = names[key.replace("top1", "loss")]
                colour = COLOURS[list(names).index(key.replace("top1", "loss"))]
                (marks[name],) = axes.plot(*zip(*points, strict=True), color=colour, marker=".")
    legend_below(figure, marks)
    return figure
