"""`zoo inspect CHECKPOINT|MODEL`: what a file or a network holds, its branches' shares, and where it is linear."""

from pathlib import Path
from typing import Any

from torch import nn

import zoo
from zoo.checkpoints.config import InspectConfig
from zoo.cli.networks import open_network
from zoo.reparam.shares import branch_shares
from zoo.results.table import Column, Table
from zoo.untrusted import printable


def run(config: InspectConfig) -> dict[str, Any]:
    """Inspect.

    Raises:
        CheckpointError, UnknownModelError: Neither a checkpoint nor the name of a network.
    """
    facts: dict[str, Any] = {}
    if Path(config.checkpoint).exists():
        name, model, checkpoint, _ = open_network(config, config.block)
        facts = {key: value for key, value in checkpoint.metadata.items() if isinstance(value, str | int | float)}
    else:
        name, built = config.checkpoint, {"num_classes": config.num_classes, "block": config.block}
        model = zoo.create_model(name, **built).eval()
    shares = branch_shares(model)
    result = {**facts, "model": name, "structure": "train" if shares else "deployed or plain"}
    result |= {"params": sum(parameter.numel() for parameter in model.parameters()), "blocks": len(shares)}
    for key, value in result.items():
        print(printable(f"{key}: {value}"))
    if shares:
        print(_table(shares).text())
    return result | {"shares": shares} | _linear(model)


def _linear(model: nn.Module) -> dict[str, Any]:
    """Fold a copy without proof, to show what is linear, what folding it saves, and what would be left and why."""
    try:
        _, report = zoo.deploy_with_report(model, verify=False)
    except ValueError as error:
        print(f"linear regions: not searched: {error}")
        return {"regions": None, "left": {"": str(error)}}
    columns = [Column("region", lambda region: region.name), Column("layers", lambda region: len(region.layers))]
    print(Table(columns, report.regions).text(), report.summary(), sep="\n")
    regions = {region.name: region.layers for region in report.regions}
    return {"regions": regions, "left": report.left, "params_folded": report.params[1], "macs": report.macs}


def _table(shares: dict[str, dict[str, float]]) -> Table:
    """One line a block, one column a branch: its share of the equivalent kernel."""
    branches = dict.fromkeys(branch for of_block in shares.values() for branch in of_block)
    columns = [Column("block", lambda row: row[0])]
    columns += [Column(b, lambda row, b=b: row[1].get(b), lambda share: f"{100 * share:.1f}%") for b in branches]
    return Table(columns, list(shares.items()))
