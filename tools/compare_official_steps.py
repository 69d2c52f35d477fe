"""Time zoo's training step against the official implementations, in one run.

    git clone https://github.com/DingXiaoH/RepVGG /tmp/RepVGG
    git clone https://github.com/DingXiaoH/DiverseBranchBlock /tmp/DiverseBranchBlock
    python tools/compare_official_steps.py --repvgg /tmp/RepVGG --dbb /tmp/DiverseBranchBlock

RepVGG-A0 and DBB-ResNet-18: the official network in NCHW float32 as its training script has it; ours in NCHW float32
and in channels_last, there also with bf16 autocast where this machine computes in it. Steps are those of
`benchmark.py train`, interleaved. The official networks must have as many parameters as ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zoo
from zoo.atomic import atomic_write
from zoo.bench.environment import environment
from zoo.bench.results import without_nan
from zoo.bench.statistics import paired_ratio, summarize
from zoo.bench.timing import HostClock, Plan, interleave
from zoo.bench.train_step import Contender, Step
from zoo.export.cpu import has_bf16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repvgg", type=Path, required=True, help="checkout of DingXiaoH/RepVGG")
    parser.add_argument("--dbb", type=Path, required=True, help="checkout of DingXiaoH/DiverseBranchBlock")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=240.0, help="bound of a network's rounds")
    parser.add_argument("--output", type=Path, default=Path("results/official_steps.json"))
    options = parser.parse_args()
    commits = {path.name: commit(path) for path in (options.repvgg, options.dbb)}
    torch.set_num_threads(options.threads)
    plan = Plan(rounds=options.rounds, seconds=options.seconds, warmup_seconds=5.0)
    rows = []
    for name, official in (("repvgg_a0", official_repvgg(options.repvgg)), ("dbb_resnet18", official_dbb(options.dbb))):
        rows += measure(name, official, options.batch_size, plan)
    settings = {"batch_size": options.batch_size, "img_size": 224, "threads": options.threads}
    result = {"environment": environment(), "official": commits, **settings, "rows": rows}
    with atomic_write(options.output) as temporary:
        temporary.write_text(json.dumps(without_nan(result), indent=1))
    return 0


def official_repvgg(checkout: Path) -> nn.Module:
    sys.path.insert(0, str(checkout))
    return importlib.import_module("repvgg").create_RepVGG_A0()


def official_dbb(checkout: Path) -> nn.Module:
    sys.path.insert(0, str(checkout))
    layers = importlib.import_module("convnet_utils")
    layers.switch_conv_bn_impl("DBB")
    return layers.build_model("ResNet-18")


def measure(name: str, official: nn.Module, batch_size: int, plan: Plan) -> list[dict[str, Any]]:
    """A row per contender; `speedup` is official / contender, paired by round. Times in seconds."""
    contenders = [Contender(model=name, structure="official", layout="nchw")]
    contenders += [Contender(model=name, structure="train", layout=layout) for layout in ("nchw", "nhwc")]
    if has_bf16():
        contenders.append(Contender(model=name, structure="train", precision="bf16"))
    networks = [official, *(zoo.create_model(name) for _ in contenders[1:])]
    counts = {sum(parameter.numel() for parameter in network.parameters()) for network in networks}
    assert len(counts) == 1, f"{name}: {counts} parameters"
    steps = {
        contender.name: Step(network, contender, batch_size, 224, "cpu")
        for contender, network in zip(contenders, networks, strict=True)
    }
    timings = interleave(steps, plan, clock=HostClock())
    rows = []
    for contender in contenders:
        samples = timings.samples[contender.name]
        speedup = paired_ratio(timings.samples[contenders[0].name], samples)
        row = {**dataclasses.asdict(contender), **dataclasses.asdict(summarize(samples))}
        rows.append({**row, "speedup": dataclasses.asdict(speedup)})
        interval = f"[{speedup.low:.2f}, {speedup.high:.2f}]"
        print(f"{name} {contender.name}: {row['median']:.3f} s, {speedup.value:.2f}x {interval}", flush=True)
    return rows


def commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
