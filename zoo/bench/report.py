"""Results as Markdown, CSV, PNG, or one HTML page that needs nothing but itself.

python -m zoo.bench.report results/*.json                         Markdown on stdout
python -m zoo.bench.report results/*.json --output report.html    the page, with sortable tables and plots
"""

from __future__ import annotations

import argparse
import csv
import html
import io
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from zoo.atomic import atomic_write
from zoo.bench.plots import plots, png, svg
from zoo.bench.results import read
from zoo.bench.tables import KINDS, Table, markdown, tables

SUFFIXES = (".md", ".csv", ".html", ".png")
Result = dict[str, Any]


def write_report(results: Sequence[Result], path: str | Path) -> list[Path]:
    """Write results in the format that the suffix of `path` names; the files written (a PNG per plot).

    Raises:
        ValueError: Another suffix, or pictures asked of results that have no row to draw.
        OSError: A file could not be written.
    """
    path = check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        return _write_pngs(results, path)
    text = {".md": markdown_report, ".csv": csv_report, ".html": html_report}[path.suffix](results)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return [path]


def check_suffix(path: str | Path) -> Path:
    """The path of a report. Raises: ValueError, if its suffix names no format of ours."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: a report ends in one of {', '.join(SUFFIXES)}")
    return path


def _write_pngs(results: Sequence[Result], path: Path) -> list[Path]:
    written = []
    for result in results:
        for name, figure in plots(result).items():
            slug = "-".join("".join(c if c.isalnum() else " " for c in name.replace("²", "")).split())
            file = path.with_name(f"{path.stem}-{slug}.png")
            with atomic_write(file) as temporary:
                png(figure, temporary)
            written.append(file)
    if not written:
        raise ValueError(f"{path}: nothing to draw, as no row was measured; a .md or .html report has the reasons")
    return written


def markdown_report(results: Sequence[Result]) -> str:
    """Every table under its title, with the conditions of each result."""
    parts = []
    for result in results:
        for table in tables(result):
            parts += [f"### {table.title}", "", table.note, "", markdown(table), ""]
        parts += [f"*{conditions(result)}*", ""]
    return "\n".join(parts)


def csv_report(results: Sequence[Result]) -> str:
    """The rows of each result's full table, unrounded; one header per kind."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for result in results:
        table = tables(result)[-1]
        writer.writerow(table.columns)
        writer.writerows([cell.value for cell in row] for row in table.rows)
    return buffer.getvalue()


def html_report(results: Sequence[Result]) -> str:
    """One page: its styles, scripts, tables and pictures are inside it."""
    page = Template(resources.files("zoo.bench").joinpath("report.html").read_text(encoding="utf-8"))
    links, sections = [], []
    for number, result in enumerate(results):
        made = tables(result)
        links.append(f'<a href="#result{number}">{html.escape(made[-1].title)}</a>')
        pictures = "".join(f"<figure>{svg(figure)}</figure>" for figure in plots(result).values())
        warned = sum(1 for row in result["rows"] if row.get("warning"))
        noise = (
            f'<p class="warning">{warned} rows differ by less than the noise; see their notes.</p>' if warned else ""
        )
        sections.append(
            f'<section id="result{number}"><h2>{html.escape(made[-1].title)}</h2>'
            f'<p class="conditions">{html.escape(conditions(result))}</p>{noise}'
            f'<div class="plots">{pictures}</div>{"".join(map(_html_table, made))}</section>'
        )
    return page.substitute(links="".join(links), sections="".join(sections))


def _html_table(table: Table) -> str:
    heads = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    lines = []
    for row in table.rows:
        cells = []
        for cell in row:
            number = isinstance(cell.value, (int, float))
            value = "" if cell.value is None else html.escape(str(cell.value))
            cells.append(f'<td{" class=number" if number else ""} data-value="{value}">{html.escape(cell.text)}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f"<h3>{html.escape(table.title)}</h3><p>{html.escape(table.note)}</p>"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def conditions(result: Result) -> str:
    """Machine, versions and command of a result, in one line."""
    machine, versions = result["environment"], result["environment"]["versions"]
    parts = [
        f"{machine['cpu']['model']}, {machine['cpu']['cpus']} CPUs ({', '.join(machine['cpu']['features'])})",
        *machine["gpus"],
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"commit {machine['commit']}" if machine["commit"] else "",
        f"load {machine['load_average'][0]}" if machine["load_average"] else "",
        machine["date"],
        result["command"],
    ]
    for threads, peaks in (result.get("peaks") or {}).items():
        limits = ", ".join(f"{name.replace('gemm_', '')} {value / 1e9:.0f}" for name, value in peaks.items())
        parts.append(f"limits at {threads} thread(s) in GMAC/s (triad: GB/s): {limits}")
    return "; ".join(part for part in parts if part)


def read_all(paths: Sequence[str | Path]) -> list[Result]:
    """Read result files of kinds that have tables. Raises ValueError, naming the file."""
    results = [read(path) for path in paths]
    for path, result in zip(paths, results, strict=True):
        if result["kind"] not in KINDS:
            raise ValueError(
                f"{path}: results of kind {result['kind']!r} have no tables here; kinds: {', '.join(KINDS)}"
            )
    return results


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m zoo.bench.report", description="Tables and pictures of results.")
    parser.add_argument("results", nargs="+", metavar="FILE", help="result files of benchmark.py, JSON")
    parser.add_argument("--output", metavar="FILE", help=f"write there ({', '.join(SUFFIXES)}); default: Markdown")
    options = parser.parse_args(argv)
    try:
        results = read_all(options.results)
        if options.output:
            write_report(results, options.output)
        else:
            sys.stdout.write(markdown_report(results))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
