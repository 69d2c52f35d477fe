"""Write the README's results section from results/benchmark/.

python tools/readme_tables.py           rewrite the section
python tools/readme_tables.py --check   exit 1 if it is not what the results say
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from timm.utils import natural_key

from zoo.atomic import atomic_write
from zoo.bench.report import read_all
from zoo.bench.results import without_nan
from zoo.bench.statistics import geometric_mean, paired_ratio
from zoo.bench.tables import significant

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "benchmark"
START, END = "<!-- results -->\n", "<!-- /results -->\n"
ENGINES = ("eager", "onnxruntime", "openvino")
SPEEDUPS = {"eager": ("eager", "fp32"), "fp32": ("auto", "fp32"), "int8 allowed": ("auto", "int8")}
"""Column → (engine, precision) of a deployed network."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, rest = text.split(START)
    after = rest.split(END)[1]
    made = before + START + section() + END + after
    if options.check:
        return int(made != text)
    with atomic_write(readme) as temporary:
        temporary.write_text(made)
    return 0


def section() -> str:
    return "\n".join([*speedups(), *pairs(), *ghosts(), *joins(), *steps(), *repeats(), *loads()]) + "\n"


def loads() -> list[str]:
    """How busy the machine was."""
    results = {file.stem: read_all([file])[0] for file in sorted(RESULTS.glob("*.json"))}
    parts = [f"{name} {significant(result['environment']['load_average'][0])}" for name, result in results.items()]
    return [f"Load average when each run began (an idle machine has 0): {', '.join(parts)}.", ""]


def rows_of(name: str) -> list[dict[str, Any]]:
    """The finished rows of a result file."""
    [result] = read_all([RESULTS / f"{name}.json"])
    return [row for row in result["rows"] if row["status"] == "ok"]


def speedups() -> list[str]:
    """Each network against what a user has today."""
    [first] = read_all([RESULTS / "speedup-1.json"])
    machine, versions = first["environment"]["cpu"], first["environment"]["versions"]
    has_bf16 = any("bf16" in feature for feature in machine["features"])
    lines = [
        "## Measured",
        "",
        "Generated from [results/benchmark](results/benchmark) by `tools/readme_tables.py`; every figure with its",
        "spread is on the page [report.html](results/benchmark/report.html).",
        f"{machine['model']}, {machine['cpus']} CPUs ({', '.join(machine['features'])}), one thread, 224², "
        + ", ".join(f"{name} {versions[name]}" for name in ("torch", "timm", "onnxruntime", "openvino"))
        + (". " if has_bf16 else ". This CPU has no bf16 arithmetic, so bf16 is not measured."),
        "",
        "**Speed-up of the deployed network** over timm's (DBB, ACNet: the official converter's) reparameterized one",
        "in eager float32, interleaved in one run; [95 % of repeats]. int8 is timed on random calibration.",
        "",
    ]
    cells: list[list[str]] = []
    for batch in (1, 8):
        rows = rows_of(f"speedup-{batch}")
        columns: dict[str, list[float]] = {column: [] for column in SPEEDUPS}
        for model in dict.fromkeys(row["model"] for row in rows):
            line = [model, str(batch)]
            for column, (engine, precision) in SPEEDUPS.items():
                [row] = [r for r in rows if deployed(r) and (r["model"], *setting(r)) == (model, engine, precision)]
                columns[column].append(row["speedup"]["value"])
                line.append(ratio(row["speedup"]))
            cells.append(line)
        means = [f"**{significant(geometric_mean(values))}x**" for values in columns.values()]
        cells.append(["**geometric mean**", str(batch), *means])
    return [*lines, *table(["network", "batch", *SPEEDUPS], cells, words=1)]


def pairs() -> list[str]:
    """RepVGG beside the ResNets of the paper's Table 4."""
    title = [
        "**RepVGG against ResNet**, pairs of the paper's Table 4, deployed on the same engine: how many times as fast.",
        "The paper timed a GPU (GTX 1080Ti, batch 128). On this CPU A2 and larger mostly lose: they multiply more than",
        "the ResNet beside them (`zoo list` has the MACs).",
    ]
    cells: list[list[str]] = []
    for name in sorted((file.stem for file in RESULTS.glob("*-repvgg.json")), key=natural_key):
        rows = [row for row in rows_of(name) if deployed(row)]
        resnet = next(row["model"] for row in rows if row["model"].startswith("timm/"))
        samples = {(row["model"], row["batch_size"], row["engine"]): row["samples"] for row in rows}
        for model in dict.fromkeys(row["model"] for row in rows if row["model"] != resnet):
            for batch in (1, 8):
                times = [over(samples[resnet, batch, engine], samples[model, batch, engine]) for engine in ENGINES]
                cells.append([model, resnet.removeprefix("timm/"), str(batch), *times])
    return [*title, "", *table(["RepVGG", "over", "batch", *ENGINES], cells, words=2)]


def ghosts() -> list[str]:
    """GhostNet's time over RepGhostNet's."""
    rows = [row for row in rows_of("ghost-repghost") if row["comparison"] == "network"]
    title = "**RepGhostNet against GhostNet** at equal width, whole networks: how many times as fast."
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    cells: list[list[str]] = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        for batch in sorted({row["batch_size"] for row in rows}):
            found = {r["engine"]: r for r in rows if (r["stage"], r["batch_size"]) == (stage, batch)}
            cells.append([stage, str(batch), *(ratio(found[engine]["ratio"]) for engine in engines)])
    return [title, "", *table(["width", "batch", *engines], cells, words=1)]


def joins() -> list[str]:
    """Concat's time over Add's, over GhostNet's shapes."""
    title = (
        "**Concat against Add** on the shapes of GhostNet's stages: time of Concat over time of Add (geometric mean)."
    )
    means: dict[tuple[str, int], float] = {}
    for engine in ENGINES:
        rows = [row for row in rows_of(f"concat-add-{engine}") if row["comparison"] == "operator"]
        for layout in dict.fromkeys(row["layout"] for row in rows):
            for batch in sorted({row["batch_size"] for row in rows}):
                same = [r for r in rows if (r["layout"], r["batch_size"]) == (layout, batch)]
                means[f"{engine} {layout}", batch] = geometric_mean([r["ratio"]["value"] for r in same])
    kinds = list(dict.fromkeys(kind for kind, _ in means))
    cells = [
        [str(batch), *(significant(means[kind, batch]) if (kind, batch) in means else "" for kind in kinds)]
        for batch in sorted({batch for _, batch in means})
    ]
    return [title, "", *table(["batch", *kinds], cells, words=0)]


def steps() -> list[str]:
    """What the branches cost in training, and our step beside timm's and the official ones."""
    official = json.loads((ROOT / "results" / "official_steps.json").read_text())
    lines = [
        "**A training step** in float32, two threads, batch 16: its time over that of the plain network (one",
        "convolution and BatchNorm for each block); and how many times as fast ours is, in the memory format that",
        f"`train.py` chooses, as timm's (160²) and as the official implementation ({official['img_size']}²) in theirs.",
        "",
    ]
    cells = []
    for file in sorted(RESULTS.glob("train-*.json")):
        rows = rows_of(file.stem)
        samples = {(row["structure"], row["layout"]): row["samples"] for row in rows}
        ours = samples["train", "nhwc"]
        timms = samples.get(("peer", "nchw"))
        published = [
            row["speedup"]
            for row in official["rows"]
            if (row["model"], row["structure"], row["layout"], row["precision"])
            == (rows[0]["model"], "train", "nhwc", "fp32")
        ]
        cells.append(
            [
                rows[0]["model"],
                over(ours, samples["plain", "nhwc"]),
                over(timms, ours) if timms else "",
                ratio(published[0]) if published else "",
            ]
        )
    return [*lines, *table(["network", "over plain", "over timm", "over official"], cells, words=1)]


def repeats() -> list[str]:
    """Whether a stated interval holds what another run finds."""
    [result] = read_all([RESULTS / "repeatability.json"])
    held = result["repeatability"]
    text = f"of one command in {held['runs']} runs lay in the interval that another run stated"
    return [f"**Repeated**, {held['within']} of {held['compared']} ratios {text}.", ""]


def table(columns: list[str], rows: list[list[str]], *, words: int) -> list[str]:
    """The lines of a table in Markdown and an empty one; its first columns are words, the others numbers."""
    rule = ["---"] * words + ["---:"] * (len(columns) - words)
    head = [f"| {' | '.join(columns)} |", f"|{'|'.join(rule)}|"]
    return [*head, *(f"| {' | '.join(row)} |" for row in rows), ""]


def deployed(row: dict[str, Any]) -> bool:
    return row["structure"] == "deployed"


def setting(row: dict[str, Any]) -> tuple[str, str]:
    return row["engine"], row["precision"]


def over(samples: list[float], reference: list[float]) -> str:
    """The ratio of two interleaved rows' times."""
    return ratio(without_nan(dataclasses.asdict(paired_ratio(samples, reference))))


def ratio(value: dict[str, float | None]) -> str:
    """The ratio, and the interval of repeats if there were enough rounds to state one."""
    middle, low, high = (value[name] for name in ("value", "repeat_low", "repeat_high"))
    assert middle is not None
    text = f"{significant(middle)}x"
    return text if low is None or high is None else f"{text} [{significant(low)}, {significant(high)}]"


if __name__ == "__main__":
    sys.exit(main())
