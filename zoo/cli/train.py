"""`train.py`, `zoo train`: from a recipe to a deployed network."""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.bench.statistics import paired_ratio, summarize
from zoo.bench.timing import Plan, clock_of, inference, interleave
from zoo.cli.results import show_log, write_results
from zoo.engine import checkpoint
from zoo.engine.config import TrainConfig
from zoo.engine.distributed import Processes
from zoo.engine.smoke import smoke
from zoo.engine.train import checkpoint_to_resume, train
from zoo.results.table import Table


def settings_of_run(config: TrainConfig) -> dict[str, Any]:
    """The settings of the run that `--resume` names, by which it continues where flags say nothing else."""
    if config.run.smoke or not (resume := checkpoint_to_resume(config)):
        return {}
    return checkpoint.remembered(checkpoint.load(resume).config)


def run(config: TrainConfig) -> dict[str, Any] | None:
    """Train, print the scores and the latency of both structures; the results, from the first process only."""
    show_log()
    trained = train(smoke(config) if config.run.smoke else config)
    if not Processes.from_environment().is_first:
        return None
    rows = [{"network": name, **score} for name, score in trained.results["scores"].items()]
    print(Table.of(rows).markdown())
    if not config.optim.qat:  # whose two networks are one structure, in simulation and as it is
        seconds = 0.2 if config.run.smoke else 3.0
        latency = time_structures({"train": trained.network, "deployed": trained.deployed}, trained.example, seconds)
        print(Table.of(latency).markdown())
        trained.results["latency"] = latency
    return write_results(trained.results, rows, config.run.results_file)


def time_structures(networks: dict[str, nn.Module], example: Tensor, seconds: float) -> list[dict[str, Any]]:
    """Latency of the structures in turn at batch 1 and 8, about `seconds` each: milliseconds per batch.

    `speedup` is train / deployed (`paired_ratio`). `benchmark.py latency` measures thoroughly.
    """
    plan = Plan(rounds=30, seconds=seconds, warmup_seconds=seconds / 3)
    rows = []
    for batch_size in (1, 8):
        images = example.expand(batch_size, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        calls = {name: inference(network, images) for name, network in networks.items()}
        timings = interleave(calls, plan, clock=clock_of(example.device))
        samples = timings.samples
        row: dict[str, Any] = {"batch_size": batch_size, "rounds": timings.rounds}
        row |= {f"{name}_ms": 1e3 * summarize(samples[name]).median for name in networks}
        rows.append(row | {"speedup": paired_ratio(samples["train"], samples["deployed"]).value})
    return rows
