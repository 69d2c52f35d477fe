"""Results as Markdown, CSV, PNG, or one HTML page that needs nothing but itself."""

import html
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from zoo.atomic import atomic_write
from zoo.results.files import Result, read_result
from zoo.results.means import join_means, speedup_means
from zoo.results.plots import plots, save, svg
from zoo.results.table import Table, significant
from zoo.results.views import conditions, tables, title

Results = Mapping[str, Result[Any]]
"""Name, which is the file's without folder and suffix → result."""
FEW = 60
"""A table of more rows is closed when the page opens."""


def read_all(paths: Sequence[str | Path]) -> dict[str, Result[Any]]:
    """Read result files by name. Raises ValueError, naming the file."""
    stems = [Path(path).stem for path in paths]
    return {s if stems.count(s) == 1 else str(path): read_result(path) for s, path in zip(stems, paths, strict=True)}


def write_report(results: Results, path: str | Path) -> list[Path]:
    """Write results in the format that the suffix of `path` names; returns the files written (a PNG per plot).

    Raises:
        ValueError: Another suffix, or pictures asked of results that have nothing to draw.
        OSError: A file could not be written.
    """
    path = Path(path)
    forms = {".md": markdown_report, ".csv": csv_report, ".html": html_report}
    if path.suffix not in (*forms, ".png"):
        raise ValueError(f"{path}: a report ends in one of {', '.join(forms)}, .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        return _write_pngs(results, path)
    with atomic_write(path) as temporary:
        temporary.write_text(forms[path.suffix](results), encoding="utf-8")
    return [path]


def _write_pngs(results: Results, path: Path) -> list[Path]:
    written = []
    for result in results.values():
        for name, figure in plots(result).items():
            slug = "-".join("".join(c if c.isalnum() else " " for c in name.replace("²", "")).split())
            file = path.with_name(f"{path.stem}-{slug}.png")
            with atomic_write(file) as temporary:
                save(figure, temporary)
            written.append(file)
    if not written:
        raise ValueError(f"{path}: nothing to draw, as nothing was measured; a .md or .html report has the reasons")
    return written


def markdown_report(results: Results) -> str:
    """Every table under its title, with the conditions of each result."""
    parts = []
    for name, result in results.items():
        for table in tables(result):
            parts += [f"### {name}: {table.title}", "", table.note, "", table.markdown(), ""]
        parts += [f"*{conditions(result)}*", ""]
    return "\n".join(parts)


def csv_report(results: Results) -> str:
    """The records of each result, unrounded; one header per kind."""
    parts = []
    for kind in dict.fromkeys(result.kind for result in results.values()):
        texts = [tables(result)[-1].csv() for result in results.values() if result.kind == kind]
        parts.append(texts[0] + "".join(text.split("\n", 1)[1] for text in texts[1:]))
    return "\n".join(parts)


def html_report(results: Results) -> str:
    """One page: the headline, then a section a result with its pictures and sortable tables."""
    page = Template(resources.files("zoo.results").joinpath("page.html").read_text(encoding="utf-8"))
    links, sections = [], []
    for number, (name, result) in enumerate(results.items()):
        links.append(f'<a href="#result{number}">{html.escape(name)}</a>')
        pictures = "".join(f"<figure>{svg(figure)}</figure>" for figure in plots(result).values())
        warned = sum(1 for record in result.records if record.warning)
        noise = f'<p class="warning">Differences within the noise: {warned}; see the notes.</p>' if warned else ""
        *summaries, records = tables(result)
        shown = [_html_table(table, table.title) for table in summaries] + [_html_table(records, "All records")]
        sections.append(
            f'<section id="result{number}"><h2>{html.escape(name)}: {html.escape(title(result))}</h2>'
            f'{noise}<div class="plots">{pictures}</div>{"".join(shown)}'
            f'<p class="conditions">{html.escape(conditions(result))}</p></section>'
        )
    lead = html.escape(headline(results) or "")
    return page.substitute(headline=lead, links="".join(links), sections="".join(sections))


def _html_table(table: Table, heading: str) -> str:
    count = len(table.records)
    return (
        f"<details{' open' if count <= FEW else ''}><summary>{html.escape(heading)} ({count})</summary>"
        f'<p>{html.escape(table.note)}</p><div class="scroll">{table.html()}</div></details>'
    )


def headline(results: Results) -> str | None:
    """Say in one sentence what the results come down to; None where they are of too many kinds or too few."""
    timed = [result for result in results.values() if result.kind == "latency"]
    means = [(mean, result) for result in timed for mean in speedup_means(result.records)]
    if deployed := [pair for pair in means if pair[0].like.structure == "deployed"]:
        mean, result = max(deployed, key=lambda pair: pair[0].ratio)
        first = next(record for record in result.records if record.is_reference)
        peer = "what timm's or the official conversion gives"
        engine, precision = mean.like.engine, mean.like.precision
        precision = f"at most {precision}" if engine == "auto" else precision
        return (
            f"Deployed networks ran {significant(mean.ratio)} times as fast (engine {engine}, {precision}) as "
            f"{peer if first.structure == 'peer' else f'the {first.structure} structure'} on {first.engine} in "
            f"{first.precision}: geometric mean of {mean.count} on {result.environment.cpu.model}."
        )
    joins = [m for r in results.values() if r.kind == "concat-add" for m in join_means(r.records)]
    if ratios := [mean.ratio for mean in joins if mean.like.comparison == "operator"]:
        low, high = significant(min(ratios)), significant(max(ratios))
        return f"Concatenating two maps took {low} to {high} times as long as adding them."
    return None
