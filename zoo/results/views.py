"""Results as tables: what each kind of record shows, and what the records come down to."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from zoo.results.columns import ERROR, LEFT, OUTCOME, SETTING, TIMES, at, fields, number, percent, ratio_columns
from zoo.results.files import Result
from zoo.results.means import JOIN_KEY, SPEEDUP_KEY, Mean, join_means, speedup_means
from zoo.results.records import Join, Latency
from zoo.results.table import Column, Table

WINOGRAD = ("ncnn", "mnn")
"""Engines whose 3x3 convolutions make fewer multiplications than are counted: their rates are only effective ones."""


def limit(result: Result[Latency], record: Latency) -> float | None:
    """The best rate of multiply-accumulates that this run reached in a record's precision and number of threads.

    Matrix products measure it, by torch and by the engines of the run. A network on an engine without Winograd's
    convolution may still have done better: then its rate is the limit, so that no share exceeds 1.
    """
    key = record.threads, record.computed_in
    rates = [r.macs_per_s for r in result.records if (r.threads, r.computed_in) == key and _multiplies_all(r)]
    products = _products(result, str(record.threads), record.computed_in)
    return max([*products, *(rate for rate in rates if rate)]) if products else None


def _products(result: Result[Any], threads: str, precision: str) -> list[float]:
    """The rates of the matrix products in a precision, by whatever engine."""
    peaks = result.peaks.get(threads, {})
    return [rate for name, rate in peaks.items() if f"{name}_".startswith(f"gemm_{precision}_")]


def _multiplies_all(record: Latency) -> bool:
    return (record.chosen or record.engine).partition("-")[0] not in WINOGRAD


def shares(result: Result[Latency]) -> list[Column]:
    """Columns of how near inference times come to the limits of this run."""

    def of_limit(record: Latency, winograd: bool = False) -> float | None:
        best = limit(result, record)
        return record.macs_per_s / best if best and record.macs_per_s and _multiplies_all(record) != winograd else None

    def of_bandwidth(record: Latency) -> float | None:
        best = result.peaks.get(str(record.threads), {}).get("triad")
        return record.bytes / record.time.median / best if best and record.bytes and record.time else None

    return [
        percent("of best rate", of_limit),
        percent("effective", lambda record: of_limit(record, winograd=True)),
        percent("of bandwidth", of_bandwidth, detail=True),
    ]


def _arrows(values: Iterable[object] | None) -> str | None:
    return None if values is None else " → ".join(map(str, values))


COLUMNS: dict[str, list[Column]] = {
    "latency": [
        *fields("model", "structure"),
        Column("engine", lambda record: record.chosen if record.engine == "auto" else record.engine),
        Column("precision", lambda record: f"{'auto ≤ ' * (record.engine == 'auto')}{record.precision}"),
        *SETTING,
        *TIMES,
        number("images/s", "images_per_s"),
        *ratio_columns("speed-up", "speedup"),
        number("GMAC/s", "macs_per_s", 1e9, detail=True),
        number("peak MB", "peak_memory", 1e6),
        number("other CPUs", "other_cpus", detail=True),
    ],
    "concat-add": [
        *fields("comparison", "stage", "channels", "side", "batch_size", "engine", "layout"),
        number("concat ms", "concat.time.median", 1e-3),
        number("add ms", "add.time.median", 1e-3),
        *ratio_columns("concat / add", "ratio"),
        number("concat MB", "concat.bytes", 1e6, detail=True),
        number("add MB", "add.bytes", 1e6, detail=True),
        number("concat GB/s", "concat.bandwidth", 1e9),
        number("add GB/s", "add.bandwidth", 1e9),
        Column("n", at("concat.time.n"), detail=True),
    ],
    "train": [
        *fields("model", "structure", "layout", "precision"),
        *SETTING,
        *TIMES,
        number("forward ms", "forward", 1e-3),
        number("backward ms", "backward", 1e-3),
        number("optimizer ms", "optimizer", 1e-3),
        *ratio_columns("time ratio", "step_ratio"),
        number("kept for backward MB", "saved_activations", 1e6),
        number("peak MB", "peak_memory", 1e6),
    ],
    "profile": [
        *fields("model", "structure", "level", "name", "kind"),
        number("median ms", "median", 1e-3),
        number("IQR ms", "iqr", 1e-3, detail=True),
        percent("share", at("share"), 1),
        *fields("n", detail=True),
    ],
    "conversion": [
        *fields("network", "block", "replaced"),
        ERROR,
        Column("rounding noise", at("noise_floor"), "{:.0e}".format),
        LEFT,
    ],
    "folding": [
        *fields("network"),
        Column("layers", lambda record: _arrows(record.layers)),
        Column("BatchNorms", lambda record: _arrows(record.norms)),
        ERROR,
        Column("ms", lambda record: record.times and _arrows(f"{1e3 * time.median:.1f}" for time in record.times)),
        *ratio_columns("speed-up", "speedup"),
        LEFT,
    ],
    "formats": [
        *fields("network", "format"),
        ERROR,
        number("MB", "bytes", 1e6),
        number("seconds to write", "seconds"),
        *TIMES,
        Column("outside", lambda record: ", ".join(f"{n} {kind}" for kind, n in record.outside.items()) or None),
    ],
    "training": [
        *fields("variant", "lr", "seed"),
        Column("training loss", lambda record: record.train_loss[-1] if record.train_loss else None),
        Column("top-1, %", lambda record: record.top1[-1] if record.top1 else None),
    ],
}
"""Kind of a result → what its table has beside the shares of a latency and the outcome."""

NOTES = {
    "latency": "Speed-up: time of the group's first network over this one's. `control` is a second copy of that first "
    "one: its distance from 1 is noise. Of best rate: GMAC/s over the best that any engine or a matrix product reached "
    "in this run. Effective: the same on engines with Winograd's convolution, which multiply less than is counted. "
    "Peak MB: of tensors (eager) or resident memory of building and the first call.",
    "concat-add": "concat / add: above 1, adding is faster. `operator` joins the same two maps, `equal width` compares "
    "the same output, `module` and `network` are Ghost (concat) and RepGhost (add) as a whole.",
    "train": "Time ratio: this step over that of the model's first one. Memory is of tensors, exact.",
    "profile": "Share of the network's median time. Levels: network, block, branch, layer; kind sums layers by type.",
    "conversion": "Replaced: convolutions that became blocks. Error: of the deployed network; rounding noise: of the "
    "network itself; both relative.",
    "folding": "Layers are convolutions and fully connected layers: as built → after timm's `reparameterize_model` → "
    "after `zoo.fold`; BatchNorms likewise. Error: of the folded network in float64, BatchNorm statistics randomised. "
    "Ms: median of one image, of half the network's size where it takes that, on one thread in float32, as built → "
    "folded, timed in turn; speed-up: their ratio. "
    "Left: modules that no region takes up, by reason.",
    "formats": "Error: of the file's answers to PyTorch's in float32, relative to the largest. Median ms: of one image "
    "on one thread in the format's own engine, timed in turn. Outside: operations that XNNPACK does not take.",
    "training": "Training loss and top-1 after the last epoch.",
}


def tables(result: Result[Any]) -> list[Table]:
    """Show what the records of a result come down to, if anything, and then the records themselves."""
    columns = [*COLUMNS[result.kind], *(shares(result) if result.kind == "latency" else ()), *OUTCOME]
    records = Table(columns, result.records, title(result), NOTES[result.kind])
    summaries = {"latency": _speedup_table, "concat-add": _join_table}
    summary = summaries[result.kind](result.records) if result.kind in summaries else None
    return [*([summary] if summary and summary.records else []), records]


def title(result: Result[Any]) -> str:
    """Say what was measured, and on what, in one line."""
    models = list(dict.fromkeys(record.model for record in result.records if hasattr(record, "model")))
    subject = ", ".join(models[:6]) + f" and {len(models) - 6} more" * (len(models) > 6)
    engines = list(dict.fromkeys(record.engine for record in result.records if hasattr(record, "engine")))
    subject = subject or ", ".join(engines)
    return f"{result.kind}{': ' if subject else ''}{subject} ({result.environment.cpu.model})"


def conditions(result: Result[Any]) -> str:
    """Machine, versions and command of a result, in one line."""
    where = result.environment
    parts = [
        f"{where.cpu.model}, {where.cpu.cpus} CPUs ({', '.join(where.cpu.features)})",
        *where.gpus,
        ", ".join(f"{name} {version}" for name, version in where.versions.items()),
        f"commit {where.commit}" if where.commit else "",
        f"load {where.load_average[0]}" if where.load_average else "",
        where.date,
        result.command,
        *(f"{name}: {value}" for name, value in result.settings.items()),
        *_limits(result),
    ]
    return "; ".join(part for part in parts if part)


def _limits(result: Result[Any]) -> Iterator[str]:
    for threads, peaks in result.peaks.items():
        measured = ", ".join(f"{name.replace('gemm_', '')} {value / 1e9:.0f}" for name, value in peaks.items())
        yield f"limits at {threads} thread(s) in GMAC/s (triad: GB/s): {measured}"
        for precision in dict.fromkeys(record.computed_in for record in result.records):
            mine = [r for r in result.records if (str(r.threads), r.computed_in) == (threads, precision)]
            best = max(filter(_multiplies_all, mine), key=lambda record: record.macs_per_s or 0, default=None)
            products = _products(result, threads, precision)
            if best and products and (best.macs_per_s or 0) > max(products):
                yield (
                    f"these figures contradict each other: {best.model} on {best.chosen or best.engine} reached "
                    f"{best.macs_per_s / 1e9:.0f} GMAC/s, more than any matrix product in {precision}; its rate is "
                    "taken for the limit"
                )


def _speedup_table(records: Sequence[Latency]) -> Table:
    note = "Over all models, batch sizes and resolutions; combinations that some model lacks are left out."
    title = "Geometric mean of the speed-ups"
    return _means(speedup_means(records), SPEEDUP_KEY, "speed-up", "measurement", title, note)


def _join_table(records: Sequence[Join]) -> Table:
    title, note = "Concat / add over the stages", "Above 1, adding is faster."
    return _means(join_means(records), JOIN_KEY, "concat / add", "shape", title, note)


def _means(means: Iterable[Mean[Any]], key: Sequence[str], ratio: str, noun: str, title: str, note: str) -> Table:
    columns = [
        *(Column(c.title, lambda mean, value=c.value: value(mean.like)) for c in fields(*key)),
        number(f"{ratio} (geometric mean)", "ratio"),
        Column("of", lambda mean: f"{mean.count} {noun}{'s' * (mean.count > 1)}"),
    ]
    return Table(columns, list(means), title, note)
