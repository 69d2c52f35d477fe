"""Write the tables of README and the documentation: published figures beside what is computed or measured.

python tools/docs_tables.py           rewrite every part between `<!-- generated: NAME -->` and `<!-- /generated -->`
python tools/docs_tables.py --check   exit 1 if a page is not what the data say

NAME is a published table (`zoo paper` lists them), `gains`: what blocks bring according to their papers, or `cost`:
published accuracy against the measured cost of deployed networks, from results/benchmark.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from zoo.atomic import atomic_write
from zoo.catalog import catalog
from zoo.paper.reproduce import reproduce
from zoo.published import tables
from zoo.results.files import read_result
from zoo.results.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "benchmark" / "structures-1.json"
ENGINE = "onnxruntime"
GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- /generated -->\n)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = False
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text()
        made = GENERATED.sub(lambda match: match[1] + part(match[2]) + match[3], text)
        stale = stale or made != text
        if made != text and not options.check:
            with atomic_write(page) as temporary:
                temporary.write_text(made)
    return int(options.check and stale)


def part(name: str) -> str:
    """The Markdown of one generated part."""
    if name == "cost":
        return cost()
    return gains() if name == "gains" else published(tables.table(name))


def published(table: tables.Table) -> str:
    """A published table; its computed figures marked by whether ours agree."""
    titles = [f"{column.label}{f', {column.unit}' if column.unit else ''}" for column in table.columns]
    records: list[dict[str, str]] = []
    errata: list[str] = []
    for row in table.rows:
        marks = [mark(table, row, column) for column in table.columns]
        records.append({"": row.name, **dict(zip(titles, marks, strict=True))})
        errata += [erratum.why for erratum in table.errata.values() if row.name in erratum.ours]
    notes = [f"Published: {table.source}."]
    notes += [f"{column.label}: {column.protocol}." for column in table.columns if column.protocol]
    notes += dict.fromkeys(errata)
    return "\n".join([f"**{table.title}**", "", Table.of(records).markdown(), "", *notes, ""])


def mark(table: tables.Table, row: tables.Row, column: tables.Column) -> str:
    """The published figure, and how ours compares.

    What is published is not counted again: `tests/paper` counts every network of every table, and holds it to the
    printed digit or to the erratum in our data.
    """
    figure, erratum = row.published(column), table.errata.get(column.key)
    if column.kind not in tables.COMPUTED or row.model is None:
        return figure or "not confirmed"
    if figure is None:
        return f"ours {ours(table, row, column)}"
    return f"{figure} (ours {erratum.ours[row.name]})" if erratum and row.name in erratum.ours else f"{figure} ✓"


def ours(table: tables.Table, row: tables.Row, column: tables.Column) -> str | None:
    """What a network costs: one of ours from the catalog, which tests compare with the count; any other is counted."""
    known = catalog().get(row.model or "", {})
    if row.block is None and column.kind in known:
        return column.text(known[column.kind][column.structure == "deployed"])
    return next(cell.ours for cell in reproduce(table, [row]).cells if cell.column == column.key)


def gains() -> str:
    """Published top-1 with a block and without, from the tables that have both."""
    records: list[dict[str, str]] = []

    def gain(network: str, block: str, plain: Any, with_block: Any, source: str) -> None:
        difference = f"{float(with_block) - float(plain):+.2f}"
        accuracies = {"plain": f"{plain:.2f}", "with block": f"{with_block:.2f}"}
        records.append({"network": network, "block": block, **accuracies, "points": difference, "source": source})

    for row in tables.table("dbb_table2").rows:
        if row.images == "ImageNet":
            network, plain = row.name.removeprefix("ImageNet "), row.values["original"]
            for block, column in (("ACB", "acnet"), ("DBB", "dbb")):
                gain(network, block, plain, row.values[column], "DBB paper, Table 2")
    orepa = {row.name: row.values["top1"] for row in tables.table("orepa_table4").rows}
    for depth in (18, 34, 50, 101):
        network = f"ResNet-{depth}"
        for block in ("DBB", "OREPA"):
            gain(network, block, orepa[f"{network} plain"], orepa[f"{network} {block}"], "OREPA paper, Table 4")
    plain, *_, both = tables.table("repvgg_table6").rows
    gain("RepVGG-B0", "RepVGG", plain.values["top1"], both.values["top1"], "RepVGG paper, Table 6")
    return Table.of(sorted(records, key=lambda record: record["network"])).markdown() + "\n"


def cost() -> str:
    """Published accuracy against measured time, network by network."""
    result = read_result(RESULTS)
    measured = {(record.model, record.structure): record for record in result.records if record.engine == ENGINE}
    records: list[dict[str, Any]] = []
    for name in dict.fromkeys(model for model, _ in measured):
        train, deployed, accuracy = measured[name, "train"], measured[name, "deployed"], tables.published(name)
        assert accuracy
        records.append(
            {
                "network": f"`{name}`",
                "published top-1, %": f"{accuracy.top1}",
                "source": accuracy.source,
                "parameters, M": f"{train.params / 1e6:.1f} → {deployed.params / 1e6:.1f}",
                "GMACs": f"{train.macs / 1e9:.2f} → {deployed.macs / 1e9:.2f}",
                "measured, ms": f"{1e3 * train.time.median:.1f} → {1e3 * deployed.time.median:.1f}",
            }
        )
    where = result.environment
    conditions = (
        f"Train → deployed structure. Measured: one image of 224², one thread of an {where.cpu.model}\n"
        f"(shared machine), ONNX Runtime {where.versions['onnxruntime']} in fp32, median of {train.time.n}. "
        "No accuracy here is ours."
    )
    return "\n".join([Table.of(records).markdown(), "", conditions, ""])


if __name__ == "__main__":
    sys.exit(main())
