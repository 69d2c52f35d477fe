"""Pictures of result documents, as matplotlib figures: SVG for the page, PNG for files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from zoo.bench.means import over_stages
from zoo.bench.results import CONTROL, Row

COLOURS: tuple[str, ...] = (
    "#2f6f9f",
    "#d1702c",
    "#3f8f5f",
    "#a03f6f",
    "#7a6bb0",
    "#8a7440",
    "#4f9fa8",
    "#b5484a",
    "#5c6670",
)
STYLE = {"color": "#d8dde3", "linewidth": 0.8}


def plots(result: dict[str, Any]) -> dict[str, Figure]:
    """Name → figure, as many as the rows of this kind of result allow."""
    rows = [row for row in result["rows"] if row["status"] == "ok"]
    drawers = {"latency": _latency, "concat-add": _concat_add, "train": _train, "profile": _profile}
    return drawers[result["kind"]](rows) if rows else {}


def svg(figure: Figure) -> str:
    """An `<svg>` element for a page; text stays text."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "zoo", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def png(figure: Figure, path: Any) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", dpi=150)


def _latency(rows: Sequence[Row]) -> dict[str, Figure]:
    rows = [row for row in rows if row["structure"] != CONTROL]
    settings = sorted({(row["batch_size"], row["img_size"], row["threads"]) for row in rows})
    figures = {}
    for setting in settings:
        mine = [r for r in rows if (r["batch_size"], r["img_size"], r["threads"]) == setting]
        name = "batch {}, {}², threads {}".format(*setting)
        if any(row.get("published_top1") for row in mine):
            figures[f"accuracy and latency, {name}"] = _pareto(
                mine, name, "published_top1.value", "published ImageNet top-1, %", 1.0, higher=True
            )
        figures[f"parameters and latency, {name}"] = _pareto(mine, name, "params", "parameters, M", 1e6, higher=False)
        figures[f"speed-ups, {name}"] = _speedups(mine, name)
    return {name: figure for name, figure in figures.items() if figure is not None}


def _pareto(rows: Sequence[Row], setting: str, y: str, label: str, scale: float, *, higher: bool) -> Figure | None:
    """Train → deployed (eager, arrow) → fastest deployed (star); the best fastest ones joined by a line."""
    figure, axes = _axes(f"{label.split(',')[0]} against latency ({setting})", "median ms per batch", label)
    best = []
    for colour, model in zip(_cycle(), dict.fromkeys(row["model"] for row in rows), strict=False):
        mine = [row for row in rows if row["model"] == model and _at(row, y) is not None]
        deployed = [row for row in mine if row["structure"] == "deployed"]
        if not deployed:
            continue
        fastest = min(deployed, key=lambda row: row["median"])
        point = (1e3 * fastest["median"], _at(fastest, y) / scale)
        eager = {r["structure"]: r for r in mine if (r["engine"], r["precision"]) == ("eager", "fp32")}
        path = [(1e3 * eager[s]["median"], _at(eager[s], y) / scale) for s in ("train", "deployed") if s in eager]
        if len(path) == 2:
            axes.annotate("", path[1], path[0], arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.4})
            axes.scatter(*path[0], facecolors="white", edgecolors=colour, s=36, zorder=3)
        for end in path[1:]:
            axes.scatter(*end, color=colour, s=36, zorder=3)
        if path:
            axes.plot(*zip(path[-1], point, strict=True), color=colour, ls=":", lw=1)
        axes.scatter(*point, color=colour, marker="*", s=110, zorder=4)
        axes.annotate(model, point, xytext=(6, 5), textcoords="offset points", fontsize=8, color=colour)
        best.append(point)
    if not best:
        return None
    front = pareto_front(best, higher=higher)
    axes.plot(*zip(*front, strict=True), color="#9aa5b1", lw=1, zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _key(axes, "○ train → ● deployed, both eager fp32;  ★ fastest deployed engine; grey: Pareto front")
    return figure


def pareto_front(points: Sequence[tuple[float, float]], *, higher: bool) -> list[tuple[float, float]]:
    """Of (cost, quality) points those that no cheaper one equals, by cost. `higher`: more quality is better."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda p: (p[0], -p[1] if higher else p[1])):
        if not front or (quality > front[-1][1] if higher else quality < front[-1][1]):
            front.append((cost, quality))
    return front


def _speedups(rows: Sequence[Row], setting: str) -> Figure:
    """Speed-up of every combination over the model's reference, with the interval of repeats."""
    shown = [row for row in rows if row["structure"] != "peer"]
    models = list(dict.fromkeys(row["model"] for row in shown))
    kinds = list(dict.fromkeys((r["structure"], r["engine"], r["precision"]) for r in shown))
    height = 1.4 + 0.19 * len(shown) + 0.25 * len(models)
    figure, axes = _axes(f"Speed-up over the first row of each model ({setting})", "times as fast", "", height=height)
    position, ticks = 0.0, []
    for model in models:
        mine = [row for row in shown if row["model"] == model]
        ticks.append((position + (len(mine) - 1) / 2, model))
        for row in mine:
            kind = (row["structure"], row["engine"], row["precision"])
            ratio = row["speedup"]
            colour = COLOURS[kinds.index(kind) % len(COLOURS)]
            axes.barh(position, ratio["value"], height=0.82, color=colour, alpha=0.85)
            if ratio["repeat_low"] is not None:
                axes.plot([ratio["repeat_low"], ratio["repeat_high"]], [position] * 2, color="#26323f", lw=1)
            text = f" {' '.join(kind)}  {ratio['value']:.2f}"
            end = ratio["repeat_high"] or ratio["value"]
            axes.text(max(end, ratio["value"]), position, text, va="center", fontsize=7, color="#26323f")
            position += 1
        position += 1
    axes.set_yticks([t for t, _ in ticks], [name for _, name in ticks])
    axes.invert_yaxis()
    axes.axvline(1, color="#26323f", lw=0.8)
    axes.margins(x=0.3)
    axes.set_xlim(left=0)
    return figure


def _concat_add(rows: Sequence[Row]) -> dict[str, Figure]:
    """One picture per comparison: concat / add against the batch size, a line per engine and layout."""
    figures = {}
    for comparison in dict.fromkeys(row["comparison"] for row in rows):
        means = over_stages([row for row in rows if row["comparison"] == comparison])
        figure, axes = _axes(f"Concat vs Add: {comparison}", "batch size", "time(concat) / time(add)")
        lines = list(dict.fromkeys((mean["engine"], mean["layout"]) for mean in means))
        for colour, line in zip(_cycle(), lines, strict=False):
            mine = sorted((m["batch_size"], m["ratio"]) for m in means if (m["engine"], m["layout"]) == line)
            style = "--" if line[1] == "nhwc" else "-"
            axes.plot(*zip(*mine, strict=True), style, marker="o", ms=4, color=colour, label=" ".join(line).strip())
        axes.axhline(1, color="#26323f", lw=0.8)
        if comparison in BYTES:
            axes.axhline(BYTES[comparison], color="#9aa5b1", ls=":", lw=1.2, label="by bytes alone")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.legend(fontsize=8, frameon=False)
        _key(axes, "geometric mean over the stages; above 1, adding is faster")
        figures[f"concat vs add, {comparison}"] = figure
    return figures


BYTES = {"operator": 4 / 3, "equal width": 4 / 6}


def _train(rows: Sequence[Row]) -> dict[str, Figure]:
    """Forward, backward and optimizer of every row, stacked."""
    figure, axes = _axes("Training step", "median ms", "", height=1.4 + 0.32 * len(rows))
    names = []
    for position, row in enumerate(rows):
        names.append(f"{row['model']} {row['structure']} {row['layout']} {row['precision']}")
        left = 0.0
        for colour, phase in zip(COLOURS, ("forward", "backward", "optimizer"), strict=False):
            width = 1e3 * row[phase]
            axes.barh(position, width, left=left, color=colour, label=phase if position == 0 else None)
            left += width
        axes.text(left, position, f" {row['step_ratio']['value']:.2f}x", va="center", fontsize=7)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.legend(fontsize=8, frameon=False)
    axes.margins(x=0.12)
    return {"training step": figure}


def _profile(rows: Sequence[Row]) -> dict[str, Figure]:
    """Time per kind of layer, a bar per model and structure."""
    kinds = [row for row in rows if row["level"] == "kind"]
    bars = list(dict.fromkeys((row["model"], row["structure"]) for row in kinds))
    figure, axes = _axes("Where the time goes", "median ms", "", height=1.9 + 0.5 * len(bars))
    names = list(dict.fromkeys(r["kind"] for r in sorted(kinds, key=lambda r: -r["median"])))[:8]
    for position, bar in enumerate(bars):
        left = 0.0
        mine = {row["kind"]: 1e3 * row["median"] for row in kinds if (row["model"], row["structure"]) == bar}
        rest = sum(time for kind, time in mine.items() if kind not in names)
        for colour, kind in zip(COLOURS, [*names, "other layers"], strict=False):
            width = mine.get(kind, rest if kind == "other layers" else 0.0)
            axes.barh(position, width, left=left, color=colour, label=kind if position == 0 else None)
            left += width
    axes.set_yticks(range(len(bars)), [" ".join(bar) for bar in bars])
    axes.invert_yaxis()
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    return {"time by kind of layer": figure}


def _axes(title: str, x: str, y: str, *, height: float = 4.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.2, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10.5, loc="left", color="#26323f")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(**STYLE)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _key(axes: Axes, text: str) -> None:
    axes.text(0, -0.16, text, transform=axes.transAxes, fontsize=7.5, color="#5c6670")


def _cycle() -> list[str]:
    return list(COLOURS) * 12


def _at(row: Row, path: str) -> Any:
    entry: Any = row
    for part in path.split("."):
        entry = entry.get(part) if isinstance(entry, dict) else None
    return entry
