"""`zoo deploy CHECKPOINT|MODEL`: turn trained weights into the deployed structure, with proof."""

from typing import Any

import zoo
from zoo.checkpoints import save_deployed
from zoo.cli.errors import UsageError
from zoo.cli.networks import inherited, is_name, open_network
from zoo.network import example_input
from zoo.surgery.config import DeployConfig


def run(config: DeployConfig) -> dict[str, Any]:
    """Deploy, prove, write.

    Raises:
        CheckpointError, UsageError: Bad input, before anything is written.
        EquivalenceError: The deployed network differs; nothing is written.
        OSError: The file cannot be written.
    """
    if is_name(config.checkpoint):
        if config.model or config.num_classes or config.block:
            raise UsageError(f"{config.checkpoint}: published weights have their own network, classes and block")
        name, model, facts = config.checkpoint, zoo.create_model(config.checkpoint, pretrained=True).eval(), {}
    else:
        name, model, checkpoint, built = open_network(config, config.block)
        facts = {**inherited(checkpoint), **({"block": built["block"]} if "block" in built else {})}
    example = example_input(model, 2, config.img_size) if config.img_size else None
    deployed, report = zoo.deploy_with_report(model, example)
    save_deployed(deployed, config.output, name, report, **facts)
    print(report.table())
    print(f"{config.output}: {name}, {len(report.blocks)} blocks and {len(report.regions)} other regions folded")
    result = {"model": name, "output": config.output, "params": report.params}
    result |= {"blocks": len(report.blocks), "regions": len(report.regions), "left": report.left}
    return {**result, "error": report.relative_error, "noise_floor": report.noise_floor}
