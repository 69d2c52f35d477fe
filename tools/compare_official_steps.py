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
import importlib
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import zoo
from zoo.bench.statistics import paired_ratio, summarize
from zoo.bench.timing import HostClock, Plan, interleave
from zoo.bench.train_step import Step
from zoo.export.cpu import has_bf16
from zoo.results.files import result_of, write_result
from zoo.results.records import TrainStep


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
    records = []
    for name, official in (("repvgg_a0", official_repvgg(options.repvgg)), ("dbb_resnet18", official_dbb(options.dbb))):
        records += measure(name, official, options.batch_size, plan)
    write_result(options.output, result_of("train", records, settings={"official": commits}))
    return 0


def official_repvgg(checkout: Path) -> nn.Module:
    sys.path.insert(0, str(checkout))
    return importlib.import_module("repvgg").create_RepVGG_A0()


def official_dbb(checkout: Path) -> nn.Module:
    sys.path.insert(0, str(checkout))
    layers = importlib.import_module("convnet_utils")
    layers.switch_conv_bn_impl("DBB")
    return layers.build_model("ResNet-18")


def measure(name: str, official: nn.Module, batch_size: int, plan: Plan) -> list[TrainStep]:
    """A record per contender; ratios are to the official step, paired by round. Times in seconds."""
    setting = {"model": name, "batch_size": batch_size, "img_size": 224, "threads": torch.get_num_threads()}
    kinds = [("official", "nchw", "fp32"), ("train", "nchw", "fp32"), ("train", "nhwc", "fp32")]
    kinds += [("train", "nhwc", "bf16")] if has_bf16() else []
    records = [TrainStep(structure=s, layout=layout, precision=p, **setting) for s, layout, p in kinds]
    networks = [official, *(zoo.create_model(name) for _ in records[1:])]
    counts = {sum(parameter.numel() for parameter in network.parameters()) for network in networks}
    assert len(counts) == 1, f"{name}: {counts} parameters"
    steps = {record.name: Step(network, record) for record, network in zip(records, networks, strict=True)}
    timings = interleave(steps, plan, clock=HostClock())
    for record in records:
        record.samples = timings.samples[record.name]
        record.time = summarize(record.samples)
        record.step_ratio = paired_ratio(record.samples, records[0].samples)
        record.is_reference = record is records[0]
        print(f"{record.name}: {record.time}, {record.step_ratio}", flush=True)
    return records


def commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
