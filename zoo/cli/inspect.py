"""`zoo inspect CHECKPOINT|MODEL`: what a file or a network holds, and which branch of each block earns its place."""

import argparse
import json
from pathlib import Path
from typing import Any

from torch import nn

import zoo
from zoo.cli.networks import open_network
from zoo.reparam.shares import branch_shares


def main(argv: list[str] | None = None) -> int:
    """Inspect; 0. The last line of stdout is one JSON object.

    Raises:
        CheckpointError, UnknownModelError: Neither a checkpoint nor the name of a network.
    """
    options = _parser().parse_args(argv)
    facts: dict[str, Any] = {}
    if Path(options.checkpoint).exists():
        name, model, checkpoint, _ = open_network(options, options.block)
        facts = {key: value for key, value in checkpoint.metadata.items() if isinstance(value, str | int | float)}
    else:
        name, built = options.checkpoint, {"num_classes": options.num_classes, "block": options.block}
        model = zoo.create_model(name, **built).eval()
    result = {**facts, "model": name, **_contents(model)}
    for key, value in result.items():
        if key != "shares":
            print(f"{key}: {value}")
    print(_table(result["shares"]))
    print(json.dumps(result))
    return 0


def _contents(model: nn.Module) -> dict[str, Any]:
    shares = branch_shares(model)
    return {
        "structure": "train" if shares else "deployed or plain",
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "blocks": len(shares),
        "shares": shares,
    }


def _table(shares: dict[str, dict[str, float]]) -> str:
    """One line a block, one column a branch: its share of the equivalent kernel in percent."""
    branches = list(dict.fromkeys(branch for of_block in shares.values() for branch in of_block))
    width = max([len(block) for block in shares] + [5])
    lines = [f"{'block':{width}}" + "".join(f"  {branch:>8}" for branch in branches)] if shares else []
    for block, of_block in shares.items():
        cells = (f"{100 * of_block[b]:.1f}%" if b in of_block else "" for b in branches)
        row = "".join(f"  {cell:>{max(8, len(branch))}}" for cell, branch in zip(cells, branches, strict=True))
        lines.append(f"{block:{width}}{row}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zoo inspect",
        description="Show what a checkpoint or a network holds, and each branch's share of its block's equivalent "
        "kernel (Frobenius norms). A network that is named, not loaded, has random weights.",
    )
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT|MODEL", help="a file in any layout, or the name of a network")
    add("--model", metavar="NAME", help="the network's name, if the checkpoint does not hold it")
    add("--num-classes", type=int, metavar="N", help="its classes, if the checkpoint does not hold them")
    add("--block", metavar="SET", help="the branch set it was built with, if the checkpoint does not hold it")
    add("--ema", action="store_true", help="the averaged weights of a training checkpoint")
    return parser
