"""The accuracy-latency figure of a table: the paper's and, once measured, this machine's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zoo.atomic import atomic_write
from zoo.paper.reproduce import Measurements
from zoo.published import tables


def plot(table: tables.Table, path: str | Path, measurements: Measurements | None = None, protocol: str = "") -> None:
    """Draw top-1 against latency or throughput as a PNG: published times left, ours (if any) right.

    Both panels have the published accuracy. A family is one line; points read off a picture are hollow.
    protocol: how ours were measured.

    Raises:
        ValueError: the table has no such columns. OSError: `path` cannot be written.
    """
    speed, accuracy = axes_of(table)
    rows = [row for row in table.rows if row.published(accuracy) and row.published(speed)]
    panels = {f"published ({speed.protocol})": {row.name: float(row.values[speed.key]) for row in rows}}
    if measurements:
        scale = 1000 if speed.unit == "ms" else 1  # they are in seconds
        ours = {row: scale * value for (row, column), value in measurements.items() if column == speed.key}
        panels[f"measured here ({protocol})"] = ours
    figure = Figure(figsize=(7 * len(panels), 5), layout="constrained")
    for axes, (name, speeds) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _draw(axes, rows, speeds, accuracy)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel(f"{speed.label} ({speed.unit})")
        axes.set_ylabel(f"published {accuracy.label}")
    figure.suptitle(table.title)
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


def _draw(axes: Axes, rows: Sequence[tables.Row], speeds: Mapping[str, float], accuracy: tables.Column) -> None:
    families: dict[str, list[tables.Row]] = {}
    for row in rows:
        families.setdefault(_family(row.name), []).append(row)
    for number, (family, members) in enumerate(families.items()):
        points = sorted((speeds[r.name], float(r.values[accuracy.key]), r.name) for r in members if r.name in speeds)
        if not points:
            continue
        xs, ys, colour = [x for x, _, _ in points], [y for _, y, _ in points], f"C{number}"
        hollow = any(row.approximate for row in members)
        label = f"{family} (read off the paper's figure)" if hollow else family
        axes.plot(xs, ys, linewidth=1, color=colour)
        axes.scatter(xs, ys, facecolors="none" if hollow else colour, edgecolors=colour, label=label, zorder=3)
        for x, y, name in points:
            short = name.removeprefix(family).strip(" -") or name
            axes.annotate(short, (x, y), (4, -9), fontsize=7, textcoords="offset points")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _family(row: str) -> str:
    """RepGhostNet 1.0x → RepGhostNet, RepVGG-A0 → RepVGG."""
    return row.split(" ")[0].split("-")[0]
