"""Pictures of results, as matplotlib figures: SVG for the page, PNG for files."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from zoo.published.tables import published
from zoo.results.files import Result
from zoo.results.means import join_means
from zoo.results.records import CONTROL, Join, Latency, LayerTime, TrainStep

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
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "zoo", "font.family": "sans-serif", "text.parse_math": False}
"""Two dollars in a name are no formula."""
INK, GREY = "#26323f", "#9aa5b1"
BYTES = {"operator": 4 / 3, "equal width": 4 / 6}
"""Comparison → concat / add if only bytes counted."""


def plots(result: Result[Any]) -> dict[str, Figure]:
    """Draw what the records of a result allow: name → figure."""
    records = [record for record in result.records if record.status == "ok"]
    drawers = {"latency": _latency, "concat-add": _concat_add, "train": _train, "profile": _profile}
    with rc_context(STYLE):
        return dict(drawers[result.kind](records)) if records and result.kind in drawers else {}


def svg(figure: Figure) -> str:
    """An `<svg>` element for a page; text stays text."""
    buffer = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a picture: .png, .svg or .pdf."""
    with rc_context(STYLE):
        figure.savefig(path, format=path.suffix.removeprefix("."), dpi=150)


def _latency(records: Sequence[Latency]) -> Iterator[tuple[str, Figure]]:
    records = [record for record in records if record.structure != CONTROL]
    for setting in sorted({(r.batch_size, r.img_size, r.threads) for r in records}):
        mine = [r for r in records if (r.batch_size, r.img_size, r.threads) == setting]
        name = "batch {}, {}², threads {}".format(*setting)
        yield f"speed-ups, {name}", _speedups(mine, name)
        if figure := _pareto(mine, name, _published_top1, "published ImageNet top-1, %", higher=True):
            yield f"accuracy and latency, {name}", figure
        if figure := _pareto(mine, name, _million_parameters, "parameters, M", higher=False):
            yield f"parameters and latency, {name}", figure


def _published_top1(record: Latency) -> float | None:
    known = published(record.model)
    return known.top1 if known else None


def _million_parameters(record: Latency) -> float | None:
    return record.params / 1e6 if record.params else None


def _pareto(
    records: Sequence[Latency], setting: str, y: Callable[[Latency], float | None], label: str, *, higher: bool
) -> Figure | None:
    """Train → deployed (eager, arrow) → fastest deployed (star); the best fastest ones joined by a line."""
    points: dict[str, dict[str, tuple[float, float]]] = {}
    for record in records:
        quality = y(record)
        if quality is None or record.time is None or record.structure not in ("train", "deployed"):
            continue
        mine, point = points.setdefault(record.model, {}), (1e3 * record.time.median, quality)
        if (record.engine, record.precision) == ("eager", "fp32"):
            mine[record.structure] = point
        if record.structure == "deployed":
            mine["fastest"] = min(mine.get("fastest", point), point)
    points = {model: mine for model, mine in points.items() if "fastest" in mine}
    if not points:
        return None
    figure, axes = axes_of(f"{label.split(',')[0]} against latency ({setting})", "median ms per batch", label)
    marks: dict[str, Line2D] = {}

    def mark(name: str, marker: str, point: tuple[float, float], colour: str, *, filled: bool = True) -> None:
        look: dict[str, Any] = {"ls": "", "ms": 10 if marker == "*" else 6, "marker": marker}
        axes.plot(*point, **look, color=colour, mfc=colour if filled else "white", zorder=4)
        marks[name] = Line2D([], [], **look, color=INK, mfc=INK if filled else "white")

    for colour, (model, mine) in zip(cycle(COLOURS), points.items(), strict=False):
        start = mine.get("deployed")
        if start and "train" in mine:
            axes.annotate("", start, mine["train"], arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.4})
            mark("train, eager fp32", "o", mine["train"], colour, filled=False)
        if start:
            mark("deployed, eager fp32", "o", start, colour)
            axes.plot(*zip(start, mine["fastest"], strict=True), color=colour, ls=":", lw=1)
        mark("deployed, fastest engine", "*", mine["fastest"], colour)
        marks[model] = Line2D([], [], color=colour, lw=3)
    front = pareto_front([mine["fastest"] for mine in points.values()], higher=higher)
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=GREY, lw=1, zorder=1)
        marks["Pareto front"] = Line2D([], [], color=GREY, lw=1)
    _log_axis(axes, 10, (1, 1.5, 2, 3, 5, 7))
    legend_below(figure, marks)
    return figure


def pareto_front(points: Sequence[tuple[float, float]], *, higher: bool) -> list[tuple[float, float]]:
    """Keep the (cost, quality) points that no cheaper point equals, by cost. `higher`: more quality is better."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda p: (p[0], -p[1] if higher else p[1])):
        if not front or (quality > front[-1][1] if higher else quality < front[-1][1]):
            front.append((cost, quality))
    return front


def _speedups(records: Sequence[Latency], setting: str) -> Figure:
    """Speed-up of every combination over the model's reference, with the interval of repeats."""
    shown = [record for record in records if record.structure != "peer"]
    models = list(dict.fromkeys(record.model for record in shown))
    kinds = list(dict.fromkeys((r.structure, r.engine, r.precision) for r in shown))
    height = 1.4 + 0.19 * len(shown) + 0.25 * len(models)
    figure, axes = axes_of(f"Speed-up over the first row of each model ({setting})", "times as fast", "", height=height)
    position, ticks = 0.0, []
    for model in models:
        mine = [record for record in shown if record.model == model]
        ticks.append((position + (len(mine) - 1) / 2, model))
        for record in mine:
            ratio = record.speedup
            assert ratio is not None
            kind = (record.structure, record.engine, record.precision)
            colour = COLOURS[kinds.index(kind) % len(COLOURS)]
            axes.barh(position, ratio.value, height=0.82, color=colour, alpha=0.85)
            if ratio.repeat_low is not None and ratio.repeat_high is not None:
                axes.plot([ratio.repeat_low, ratio.repeat_high], [position] * 2, color=INK, lw=1)
            end = max(ratio.repeat_high or 0, ratio.value)
            axes.text(end, position, f" {' '.join(kind)}  {ratio.value:.2f}", va="center", fontsize=7, color=INK)
            position += 1
        position += 1
    axes.set_yticks([t for t, _ in ticks], [name for _, name in ticks])
    axes.invert_yaxis()
    axes.axvline(1, color=INK, lw=0.8)
    axes.margins(x=0.3)
    axes.set_xlim(left=0)
    return figure


def _concat_add(records: Sequence[Join]) -> Iterator[tuple[str, Figure]]:
    """One picture per comparison: concat / add against the batch size, a line per engine and layout."""
    for comparison in dict.fromkeys(record.comparison for record in records):
        means = [mean for mean in join_means(records) if mean.like.comparison == comparison]
        figure, axes = axes_of(f"Concat vs Add: {comparison}", "batch size", "time(concat) / time(add)")
        lines = dict.fromkeys((mean.like.engine, mean.like.layout) for mean in means)
        for colour, line in zip(cycle(COLOURS), lines, strict=False):
            mine = sorted((m.like.batch_size, m.ratio) for m in means if (m.like.engine, m.like.layout) == line)
            style = "--" if line[1] == "nhwc" else "-"
            axes.plot(*zip(*mine, strict=True), style, marker="o", ms=4, color=colour, label=" ".join(line).strip())
        axes.axhline(1, color=INK, lw=0.8)
        if comparison in BYTES:
            axes.axhline(BYTES[comparison], color=GREY, ls=":", lw=1.2, label="by bytes alone")
        _log_axis(axes, 2, (1,))
        axes.legend(fontsize=8, frameon=False, title="geometric mean over the stages", title_fontsize=8)
        yield f"concat vs add, {comparison}", figure


def _train(records: Sequence[TrainStep]) -> Iterator[tuple[str, Figure]]:
    """Forward, backward and optimizer of every step, stacked."""
    bars: dict[str, Mapping[str, float | None]] = {}
    ends = []
    for record in records:
        phases = {"forward": record.forward, "backward": record.backward, "optimizer": record.optimizer}
        bars[record.name] = phases if record.forward else {"step": record.time.median if record.time else None}
        ends.append(f" {record.step_ratio.value:.2f}x" if record.step_ratio else "")
    yield "training step", _stacked("Training step", bars, ends)


def _profile(records: Sequence[LayerTime]) -> Iterator[tuple[str, Figure]]:
    """Time per kind of layer, a bar per model and structure."""
    kinds = [record for record in records if record.level == "kind"]
    names = list(dict.fromkeys(r.kind for r in sorted(kinds, key=lambda r: -(r.median or 0))))[:8]
    bars: dict[str, dict[str, float | None]] = {}
    for record in kinds:
        bar = bars.setdefault(f"{record.model} {record.structure}", {})
        kind = record.kind if record.kind in names else "other layers"
        bar[kind] = (bar.get(kind) or 0) + (record.median or 0)
    yield "time by kind of layer", _stacked("Where the time goes", bars, [""] * len(bars))


def _stacked(title: str, bars: Mapping[str, Mapping[str, float | None]], ends: Sequence[str]) -> Figure:
    """Bars of parts in seconds, and a text at the end of each; the legend has the parts that some bar has."""
    figure, axes = axes_of(title, "median ms", "", height=1.9 + 0.32 * len(bars))
    parts = list(dict.fromkeys(part for bar in bars.values() for part, seconds in bar.items() if seconds))
    colours = dict(zip(parts, cycle(COLOURS), strict=False))
    for position, (bar, end) in enumerate(zip(bars.values(), ends, strict=True)):
        left = 0.0
        for part in parts:
            width = 1e3 * (bar.get(part) or 0)
            axes.barh(position, width, left=left, color=colours[part])
            left += width
        axes.text(left, position, end, va="center", fontsize=7)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.margins(x=0.12)
    legend_below(figure, {part: Line2D([], [], color=colour, lw=6) for part, colour in colours.items()})
    return figure


def axes_of(title: str, x: str, y: str, *, height: float = 4.6) -> tuple[Figure, Axes]:
    """Make a figure of one pair of axes, in inches, and label it."""
    figure = Figure(figsize=(8.2, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10.5, loc="left", color=INK)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="#d8dde3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _log_axis(axes: Axes, base: int, steps: Sequence[float]) -> None:
    """A logarithmic x axis whose ticks are plain numbers: `steps` times the powers of `base`."""
    axes.set_xscale("log", base=base)
    axes.xaxis.set_major_locator(LogLocator(base, subs=steps))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def legend_below(figure: Figure, marks: Mapping[str, Line2D]) -> None:
    """Name the marks below the axes, where that covers nothing."""
    figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=4, fontsize=7.5, frameon=False)
