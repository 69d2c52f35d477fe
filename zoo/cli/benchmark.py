"""`benchmark.py`, `zoo benchmark`: measure networks, operators and training steps; show and draw the results."""

import copy
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import timm
import torch
from torchvision.models import list_models
from tqdm import tqdm

import zoo
from zoo.bench import latency, train_step
from zoo.bench.concat_add import SHAPES, measure_modules, measure_networks, measure_operators
from zoo.bench.config import (
    ConcatAddConfig,
    LatencyConfig,
    MeasureConfig,
    ProfileConfig,
    ReportConfig,
    TrainStepConfig,
)
from zoo.bench.latency import measure_group
from zoo.bench.peak import measure_peaks
from zoo.bench.profile import profile_model
from zoo.bench.timing import OnRound
from zoo.bench.train_step import measure_model
from zoo.checkpoints import read_checkpoint
from zoo.cli.errors import UsageError
from zoo.engine.hardware import keep_memory
from zoo.export.compile import AUTO
from zoo.export.engines import ENGINES, PACKAGES, check_name, missing_package
from zoo.export.torch_engines import torch_threads
from zoo.nearest import did_you_mean
from zoo.results.files import Result, result_of, to_json, write_result
from zoo.results.means import repeatability
from zoo.results.records import Latency, Record
from zoo.results.report import read_all, write_report
from zoo.results.views import tables

MAX_NETWORK_BATCH = 32
"""concat-add takes its operators to larger batches than whole networks, which would take minutes a call."""


def run_latency(config: LatencyConfig) -> dict[str, Any]:
    models, engines = _models(config.model), _engines(config.engine)
    if config.checkpoint and len(models) > 1:
        raise UsageError("--checkpoint holds the weights of one network: give one --model")
    device = _device(config.device)
    checkpoint = None
    if config.checkpoint is not None:
        checkpoint = read_checkpoint(config.checkpoint, allow_nonfinite=config.allow_nonfinite)
    groups: list[list[Latency]] = []
    for setting in _settings(config):
        own = [latency.contenders_of(m, config.structure, engines, config.precision, **setting) for m in models]
        # together: models against each other, each structure, engine and precision for itself
        groups += [list(same) for same in zip(*own, strict=True)] if config.together else own
    peaks = {}
    products = [engine for engine in (AUTO if "auto" in engines else engines) if engine not in ("eager", "compile")]
    for threads in config.threads:
        with torch_threads(threads):
            peaks[str(threads)] = measure_peaks(config.precision, device, products)

    def measure(group: list[Latency], on_round: OnRound) -> Sequence[Record]:
        return measure_group(copy.deepcopy(group), config, checkpoint=checkpoint, on_round=on_round)

    return _measure("latency", config, [partial(measure, group) for group in groups], config.repeat, peaks=peaks)


def run_concat_add(config: ConcatAddConfig) -> dict[str, Any]:
    engines = _engines(config.engine)
    _device(config.device)
    if config.device != "cpu" or "auto" in engines:
        raise UsageError("concat-add compares engines on the CPU: --device cpu, and an --engine by its name")
    jobs: list[Callable[[], Sequence[Record]]] = []
    for threads in config.threads:
        if "operator" in config.comparison:
            for engine, layout, batch, shape in itertools.product(engines, config.layout, config.batch_size, SHAPES):
                jobs.append(partial(measure_operators, shape, batch, engine, layout, threads, config))
        for engine, batch in itertools.product(engines, config.batch_size):
            setting = (batch, engine, threads, config)
            if "module" in config.comparison:
                jobs += [partial(measure_modules, shape, *setting) for shape in SHAPES]
            if "network" in config.comparison and batch <= MAX_NETWORK_BATCH:
                for width, size in itertools.product(config.width, config.img_size):
                    jobs.append(partial(measure_networks, width, batch, size, engine, threads, config))
    if not jobs:
        raise UsageError(f"whole networks are compared up to --batch-size {MAX_NETWORK_BATCH}: nothing is left to do")
    return _measure("concat-add", config, [lambda on_round, job=job: job() for job in jobs])


def run_train(config: TrainStepConfig) -> dict[str, Any]:
    _device(config.device)
    keep_memory()  # as train.py does: else a contender faults in anew what another one's larger maps gave back

    kinds = config.structure, config.layout, config.precision, config.merge_pixels
    cases = itertools.product(_models(config.model), _settings(config))
    groups = [train_step.contenders_of(model, *kinds, **setting) for model, setting in cases]
    return _measure("train", config, [partial(measure_model, group, config) for group in groups])


def run_profile(config: ProfileConfig) -> dict[str, Any]:
    _device(config.device)
    cases = itertools.product(_models(config.model), _settings(config))
    jobs = [partial(profile_model, model, config.structure, plan=config, **setting) for model, setting in cases]
    return _measure("profile", config, jobs)


def run_report(config: ReportConfig) -> dict[str, Any]:
    """Write tables and pictures; which files."""
    written = [str(path) for path in write_report(read_all(config.results), config.output)]
    print("\n".join(written))
    return {"results": config.results, "written": written}


def _settings(config: MeasureConfig) -> list[dict[str, Any]]:
    """Every combination of threads, resolution and batch size."""
    return [
        {"batch_size": batch, "img_size": size, "threads": threads, "device": config.device}
        for threads, size, batch in itertools.product(config.threads, config.img_size, config.batch_size)
    ]


def _models(patterns: Sequence[str]) -> list[str]:
    """Names and patterns → names, checked before anything is measured."""
    foreign_names = {"timm": timm.list_models, "torchvision": list_models}
    names: list[str] = []
    for pattern in patterns:
        library, _, foreign = pattern.partition("/")
        known = foreign_names[library]() if library in foreign_names else []
        if known and foreign.partition(".")[0] not in known:  # behind a dot: timm's name of the weights
            near = did_you_mean(pattern, [f"{library}/{name}" for name in known], "no name is near it", cutoff=0.6)
            raise UsageError(f"unknown model {pattern!r}: {near}")
        if foreign:
            names.append(pattern)
        else:  # model_entry raises, naming near names
            names += zoo.list_models(pattern) or [zoo.model_entry(pattern).name]
    return list(dict.fromkeys(names))


def _engines(names: Sequence[str]) -> list[str]:
    """The engines asked for, each known and installed; those installed if none were."""
    packaged = [engine for engine in ENGINES if engine in PACKAGES]
    if not names:
        return ["eager", *(engine for engine in packaged if missing_package(engine) is None)]
    for name in names:
        check_name("engine", name, ("auto", *ENGINES))
        if name in packaged and (reason := missing_package(name)) is not None:
            raise UsageError(f"--engine {name}: {reason}")
    return list(names)


def _device(name: str) -> Any:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here; use --device cpu")
    return torch.device(name)


def _measure(
    kind: str,
    config: MeasureConfig,
    jobs: Sequence[Callable[..., Sequence[Record]]],
    repeat: int = 1,
    **extra: Any,
) -> dict[str, Any]:
    """Do all jobs, `repeat` times; the records are those of the first time. What interrupts shows what there is."""
    runs: list[list[Any]] = [[] for _ in range(repeat)]
    try:
        with tqdm(total=repeat * len(jobs) * config.rounds, unit="round", file=sys.stderr) as bar:
            for number, (records, job) in enumerate(itertools.product(runs, jobs), 1):
                records += job(on_round=lambda done: bar.update())
                bar.update(number * config.rounds - bar.n)  # what the bound of time has left out
    except KeyboardInterrupt:
        if runs[0]:
            _finish(kind, runs[0], config, interrupted=True, **extra)
        raise
    repeated = repeatability(runs) if repeat > 1 else None
    return _finish(kind, runs[0], config, repeatability=repeated, **extra)


def _finish(kind: str, records: Sequence[Record], config: MeasureConfig, **extra: Any) -> dict[str, Any]:
    """Write the files, print the tables, and give the result without its samples."""
    result: Result[Any] = result_of(kind, records, **extra)
    for table in tables(result):
        print(f"{table.title}\n{table.text()}\n")
    if (r := result.repeatability) is not None:
        print(f"{r.within} of {r.compared} repeated ratios lie in the interval that another run stated\n")
    # After the tables: a disk that is full by now takes a file, not what was measured.
    if config.results_file:
        write_result(config.results_file, result)
    if config.report:
        write_report({kind: result}, config.report)
    brief = json.loads(to_json(result))
    for record in brief["records"]:
        record.pop("samples", None)
    return brief
