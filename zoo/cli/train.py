"""`train.py`, `zoo train`: from a recipe to a deployed network."""

import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.bench.timing import CudaClock, HostClock, Plan, interleave
from zoo.cli.config import flatten, parse
from zoo.cli.errors import report
from zoo.cli.results import check_results_file, deliver, markdown, show_log
from zoo.engine import checkpoint
from zoo.engine.config import TrainConfig
from zoo.engine.distributed import Processes
from zoo.engine.smoke import smoke
from zoo.engine.train import checkpoint_to_resume, train

DESCRIPTION = "Train a network, deploy it with proof, and time both structures. The last line of stdout is JSON."


def main(argv: list[str] | None = None) -> int:
    """Parse, train, report; 0, or 2 for bad input, 1 for a mishap, 128 + signal if interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    return report("train.py", lambda: _main(argv))


def _main(argv: list[str]) -> int:
    config = parse(TrainConfig, argv, "train.py", DESCRIPTION)
    check_results_file(config.run.results_file)
    show_log()

    if config.run.smoke:
        config = smoke(config)
    elif resume := checkpoint_to_resume(config):
        before = flatten(checkpoint.load(resume)["config"])
        config = parse(TrainConfig, argv, "train.py", DESCRIPTION, before)
    trained = train(config)
    if not Processes.from_environment().is_first:
        return 0
    rows = [{"network": name, **score} for name, score in trained.results["scores"].items()]
    print(markdown(rows))
    seconds = 0.2 if config.run.smoke else 3.0
    latency = time_structures({"train": trained.network, "deployed": trained.deployed}, trained.example, seconds)
    print(markdown(latency))
    trained.results["latency"] = latency
    deliver(trained.results, rows, config.run.results_file)
    return 0


def time_structures(networks: dict[str, nn.Module], example: Tensor, seconds: float) -> list[dict[str, Any]]:
    """Latency of the structures in turn at batch 1 and 8, about `seconds` each: milliseconds per batch.

    `speedup` is the median over rounds of train / deployed. `benchmark.py latency` measures thoroughly.
    """
    plan = Plan(rounds=30, seconds=seconds, warmup_seconds=seconds / 3)
    clock = CudaClock() if example.is_cuda else HostClock()
    rows = []
    with torch.inference_mode():
        for batch_size in (1, 8):
            images = example.expand(batch_size, -1, -1, -1).contiguous(memory_format=torch.channels_last)
            timings = interleave({name: _call(net, images) for name, net in networks.items()}, plan, clock=clock)
            samples = timings.samples
            row: dict[str, Any] = {"batch_size": batch_size, "rounds": timings.rounds}
            row |= {f"{name}_ms": 1e3 * statistics.median(samples[name]) for name in networks}
            pairs = zip(samples["train"], samples["deployed"], strict=True)
            row["speedup"] = statistics.median(train / deployed for train, deployed in pairs)
            rows.append(row)
    return rows


def _call(network: nn.Module, images: Tensor) -> Callable[[], object]:
    return lambda: network(images)
