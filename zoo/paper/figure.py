"""The accuracy-latency figure of a table: the paper's and, once measured, this machine's."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from zoo.atomic import atomic_write
from zoo.paper import tables
from zoo.paper.reproduce import Measurements

Point = tuple[float, float, str, bool]
"""x, top-1 in per cent, row name, whether read off a picture."""


def plot(table: tables.Table, path: str | Path, measurements: Measurements | None = None, protocol: str = "") -> None:
    """Draw top-1 against latency or throughput as a PNG: published times left, ours (if any) right.

    Both panels have the published accuracy. A family is one line; points read off a picture are hollow.
    protocol: how ours were measured.

    Raises:
        ValueError: the table has no such columns. OSError: `path` cannot be written.
    """
    speed, accuracy = axes_of(table)
    panels = {f"published ({speed.protocol})": _points(table, speed, accuracy, None)}
    if measurements:
        panels[f"measured here ({protocol})"] = _points(table, speed, accuracy, measurements)
    families = dict.fromkeys(_family(row.name) for row in table.rows)
    colours = {family: f"C{number}" for number, family in enumerate(families)}
    figure = Figure(figsize=(7 * len(panels), 5), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _draw(axes, points, colours)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel(f"{speed.label} ({speed.unit})")
        axes.set_ylabel(f"published {accuracy.label}")
    figure.suptitle(table.title)
    FigureCanvasAgg(figure)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def axes_of(table: tables.Table) -> tuple[tables.Column, tables.Column]:
    """The latency or throughput column and the accuracy column of a table's figure.

    Raises:
        ValueError: it publishes none of one of them.
    """

    def find(*kinds: str) -> tables.Column:
        for column in table.columns:
            if column.kind in kinds and any(row.published(column) for row in table.rows):
                return column
        raise ValueError(f"{table.name} has no accuracy-latency figure: it publishes no {' or '.join(kinds)}")

    return find("latency", "throughput"), find("top1")


def _points(
    table: tables.Table, speed: tables.Column, accuracy: tables.Column, measurements: Measurements | None
) -> list[Point]:
    points = []
    for row in table.rows:
        if not (row.published(accuracy) and row.published(speed)):
            continue
        x = row.values[speed.key]
        if measurements is not None:
            if (row.name, speed.key) not in measurements:
                continue
            x = measurements[row.name, speed.key] * (1000 if speed.unit == "ms" else 1)  # seconds
        points.append((float(x), float(row.values[accuracy.key]), row.name, row.approximate))
    return points


def _family(row: str) -> str:
    """RepGhostNet 1.0x → RepGhostNet, RepVGG-A0 → RepVGG."""
    return row.split(" ")[0].split("-")[0]


def _draw(axes: Axes, points: list[Point], colours: dict[str, str]) -> None:
    families: dict[str, list[Point]] = {}
    for point in sorted(points):
        families.setdefault(_family(point[2]), []).append(point)
    for family, members in families.items():
        xs, ys = [p[0] for p in members], [p[1] for p in members]
        colour = colours[family]
        axes.plot(xs, ys, linewidth=1, color=colour)
        approximate = any(p[3] for p in members)
        face = "none" if approximate else colour
        label = f"{family} (read off the paper's figure)" if approximate else family
        axes.scatter(xs, ys, facecolors=face, edgecolors=colour, label=label, zorder=3)
        for x, y, name, _ in members:
            axes.annotate(
                name.removeprefix(family).strip(" -") or name,
                (x, y),
                (4, -9),
                fontsize=7,
                textcoords="offset points",
            )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
