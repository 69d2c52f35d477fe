"""`zoo deploy CHECKPOINT`: turn trained weights into the deployed structure, with proof."""

import argparse
import json

import zoo
from zoo.checkpoints import save_deployed
from zoo.cli.networks import add_network_options, check_output, example_for, inherited, open_network


def main(argv: list[str] | None = None) -> int:
    """Deploy; 0. The last line of stdout is one JSON object.

    Raises:
        CheckpointError, UsageError: Bad input, before anything is written.
        EquivalenceError: The deployed network differs; nothing is written.
        OSError: The file cannot be written.
    """
    options = _parser().parse_args(argv)
    check_output(options.output)

    name, model, checkpoint, built = open_network(options, options.block)
    deployed, report = zoo.deploy_with_report(model, example_for(model, checkpoint, options.img_size))
    facts = {**inherited(checkpoint), **({"block": built["block"]} if "block" in built else {})}
    save_deployed(deployed, options.output, name, report, **facts)
    print(report.table())
    print(f"{options.output}: {name}, {len(report.blocks)} blocks deployed")
    result = {"model": name, "output": options.output, "blocks": len(report.blocks), "params": report.params}
    print(json.dumps({**result, "error": report.relative_error, "noise_floor": report.noise_floor}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zoo deploy",
        description="Fold every block into one convolution, prove that nothing has changed, and write the result.",
    )
    add_network_options(parser)
    parser.add_argument("--block", metavar="SET", help="branch set it was built with, if the checkpoint does not say")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the .safetensors file to write")
    return parser
