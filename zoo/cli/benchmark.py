"""`benchmark.py`, `zoo benchmark`: measure networks, operators and training steps; show and draw the results."""

import argparse
import difflib
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import timm
import torch
from torchvision.models import list_models
from tqdm import tqdm

import zoo
from zoo.bench import latency, train_step
from zoo.bench.concat_add import SHAPES, cases, measure_modules, measure_networks, measure_operators
from zoo.bench.latency import measure_group, settings_of
from zoo.bench.means import geometric_means, over_stages, repeatability
from zoo.bench.peak import measure_peaks
from zoo.bench.profile import profile_model
from zoo.bench.report import check_suffix, read_all, write_report
from zoo.bench.results import document, write
from zoo.bench.tables import console, tables
from zoo.bench.timing import Plan
from zoo.bench.train_step import measure_model
from zoo.cli import paper
from zoo.cli.benchmark_options import parser
from zoo.cli.errors import UsageError, check_folders, report
from zoo.export.engines import ENGINES, check_name, missing_package
from zoo.export.torch_engines import torch_threads
from zoo.paper.tables import published

Options = argparse.Namespace
Result = dict[str, Any]
MAX_NETWORK_BATCH = 32
"""concat-add takes its operators to larger batches than whole networks, which would take minutes a call."""


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; 0, or 2 for bad input, 1 for a mishap. The last line of stdout is one JSON object."""
    argv = sys.argv[1:] if argv is None else argv
    return report("benchmark.py", lambda: _main(argv))


def _main(argv: list[str]) -> int:
    if argv[:1] == ["paper"]:
        return paper.main(argv[1:])
    options = parser().parse_args(argv)
    result = RUN[options.command](options)
    print(json.dumps(result))
    return 0


def _latency(options: Options) -> Result:
    plan, models, engines = _plan(options), _models(options.model), _engines(options.engine)
    if options.checkpoint and len(models) > 1:
        raise UsageError("--checkpoint holds the weights of one network: give one --model")
    if options.repeat < 1:
        raise UsageError(f"--repeat {options.repeat} runs nothing: give 1 or more")
    device = _device(options.device)
    groups = [latency.contenders_of(model, options.structure, engines, options.precision) for model in models]
    if options.together:  # models against each other, each structure, engine and precision for itself
        groups = [list(same) for same in zip(*groups, strict=True)]
    settings = list(settings_of(options.batch_size, options.img_size, options.threads, options.device))
    peaks = {}
    for threads in options.threads:
        with torch_threads(threads):
            peaks[str(threads)] = measure_peaks(options.precision, device)
    runs: list[list[dict[str, Any]]] = [[] for _ in range(options.repeat)]
    total = len(settings) * len(groups) * options.repeat
    with _kept("latency", runs[0], options, peaks=peaks), _progress(total, plan) as on_round:
        for rows in runs:
            for setting in settings:
                for group in groups:
                    limits = peaks[str(setting.threads)]
                    checkpoint = options.checkpoint
                    rows += measure_group(
                        group, setting, plan, peaks=limits, checkpoint=checkpoint, on_round=next(on_round)
                    )
    _add_published(runs[0])
    extra: dict[str, Any] = {"repeatability": repeatability(runs)} if options.repeat > 1 else {}
    if not options.together:  # where the reference is a network of the group, a mean over the group says nothing
        extra["means"] = geometric_means(runs[0])
    return _finish("latency", runs[0], options, peaks=peaks, **extra)


def _concat_add(options: Options) -> Result:
    plan, engines = _plan(options), _engines(options.engine)
    _device(options.device)
    if options.device != "cpu" or "auto" in engines:
        raise UsageError("concat-add compares engines on the CPU: --device cpu, and an --engine by its name")
    jobs: list[Callable[[], list[dict[str, Any]]]] = []
    for threads in options.threads:
        if "operator" in options.comparison:
            for case in cases(engines, options.layout, options.batch_size, threads):
                jobs.append(lambda case=case: measure_operators(case, plan))
        for engine in engines:
            for batch in options.batch_size:
                setting = (batch, engine, threads, plan)
                if "module" in options.comparison:
                    jobs += [lambda s=s, setting=setting: [measure_modules(s, *setting)] for s in SHAPES]
                if "network" in options.comparison and batch <= MAX_NETWORK_BATCH:
                    for width, size in itertools.product(options.width, options.img_size):
                        at = (width, batch, size, engine, threads, plan)
                        jobs.append(lambda at=at: [measure_networks(*at)])

    if not jobs:
        raise UsageError(f"whole networks are compared up to --batch-size {MAX_NETWORK_BATCH}: nothing is left to do")
    rows: list[dict[str, Any]] = []
    with _kept("concat-add", rows, options), _progress(len(jobs), plan) as on_round:
        for job in jobs:
            next(on_round)
            rows += job()
    return _finish("concat-add", rows, options, means=over_stages(rows))


def _train(options: Options) -> Result:
    return _per_model(
        options,
        "train",
        lambda model, **setting: measure_model(
            train_step.contenders_of(model, options.structure, options.layout, options.precision), **setting
        ),
    )


def _profile(options: Options) -> Result:
    return _per_model(options, "profile", lambda model, **setting: profile_model(model, options.structure, **setting))


def _per_model(options: Options, kind: str, measure: Callable[..., list[dict[str, Any]]]) -> Result:
    """Measure every model at every setting."""
    plan, models = _plan(options), _models(options.model)
    _device(options.device)
    cells = [
        {"batch_size": batch, "img_size": size, "threads": threads}
        for threads in options.threads
        for size in options.img_size
        for batch in options.batch_size
    ]
    rows: list[dict[str, Any]] = []
    with _kept(kind, rows, options), _progress(len(models) * len(cells), plan) as on_round:
        for model in models:
            for cell in cells:
                rows += measure(model, **cell, plan=plan, device=options.device, on_round=next(on_round))
    return _finish(kind, rows, options)


def _report(options: Options) -> Result:
    check_folders(options.output)
    written = write_report(read_all(options.results), options.output)
    return {"results": options.results, "written": [str(path) for path in written]}


def _plan(options: Options) -> Plan:
    check_folders(options.results_file, options.report)
    if options.report:
        check_suffix(options.report)
    if options.results_file and not options.results_file.endswith(".json"):
        raise UsageError(f"--results-file {options.results_file} must end in .json; --report writes other formats")
    return Plan(rounds=options.rounds, seconds=options.seconds, warmup_seconds=options.warmup_seconds)


def _models(patterns: Sequence[str]) -> list[str]:
    """Names and patterns → names, checked before anything is measured."""
    foreign_names = {"timm": timm.list_models, "torchvision": list_models}
    names: list[str] = []
    for pattern in patterns:
        library, _, foreign = pattern.partition("/")
        known = foreign_names[library]() if library in foreign_names else []
        if known and foreign.partition(".")[0] not in known:  # behind a dot: timm's name of the weights
            near = difflib.get_close_matches(foreign, known, n=3)
            hint = f"did you mean {', '.join(f'{library}/{name}' for name in near)}?" if near else "no name is near it"
            raise UsageError(f"unknown model {pattern!r}: {hint}")
        if foreign:
            names.append(pattern)
        elif matches := zoo.list_models(pattern):
            names += matches
        else:
            names.append(zoo.model_entry(pattern).name)  # raises, naming near names
    return list(dict.fromkeys(names))


def _engines(names: Sequence[str] | None) -> list[str]:
    """The engines asked for, each known and installed; those installed if none were."""
    packaged = ("onnxruntime", "openvino")
    if names is None:
        return ["eager", *(engine for engine in packaged if missing_package(engine) is None)]
    for name in names:
        check_name("engine", name, ("auto", *ENGINES))
        if name in packaged and (reason := missing_package(name)) is not None:
            raise UsageError(f"--engine {name}: {reason.replace(': install', ': pip install')}")
    return list(names)


def _device(name: str) -> Any:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here; use --device cpu")
    return torch.device(name)


@contextmanager
def _kept(kind: str, rows: list[dict[str, Any]], options: Options, **extra: Any) -> Iterator[None]:
    """An interrupted run shows and writes what it has measured, then ends as interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if rows:
            _finish(kind, rows, options, interrupted=True, **extra)
        raise


@contextmanager
def _progress(groups: int, plan: Plan) -> Iterator[Iterator[Callable[[int], None]]]:
    """A bar on stderr; yields, group by group, what is to be told the group's finished rounds."""
    with tqdm(total=groups * plan.rounds, unit="round", file=sys.stderr) as bar:

        def callbacks() -> Iterator[Callable[[int], None]]:
            for start in range(0, groups * plan.rounds, plan.rounds):

                def show(done: int, start: int = start) -> None:
                    bar.update(start + done - bar.n)

                show(0)
                yield show

        yield callbacks()
        bar.update(groups * plan.rounds - bar.n)


def _add_published(rows: Sequence[dict[str, Any]]) -> None:
    """Published accuracy beside each network, for the accuracy-latency picture."""
    for row in rows:
        known = published(row["model"])
        if known is not None and known.top1 is not None:
            row["published_top1"] = {"value": known.top1, "source": known.source}


def _finish(kind: str, rows: list[dict[str, Any]], options: Options, **extra: Any) -> Result:
    """Write the files, print the tables, and give the summary that ends stdout."""
    result = document(kind, rows, **extra)
    for table in tables(result):
        print(f"{table.title}\n{console(table)}\n")
    if "repeatability" in result:
        r = result["repeatability"]
        print(f"{r['within']} of {r['compared']} repeated ratios lie in the interval that another run stated\n")
    # After the tables: a disk that is full by now takes a file, not what was measured.
    if options.results_file:
        write(options.results_file, result)
    if options.report:
        write_report([result], options.report)
    brief = [{key: value for key, value in row.items() if key != "samples"} for row in result["rows"]]
    return {**result, "rows": brief}


RUN: dict[str, Callable[[Options], Result]] = {
    "latency": _latency,
    "concat-add": _concat_add,
    "train": _train,
    "profile": _profile,
    "report": _report,
}


if __name__ == "__main__":
    sys.exit(main())
