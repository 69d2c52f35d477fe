"""`zoo convert-checkpoint`: rewrite a checkpoint of any layout in another."""

import argparse
import json

import torch

import zoo
from zoo.checkpoints import in_layout, read_checkpoint, save_weights

LAYOUTS = ("official", "timm", "stock", "zoo")


def main(argv: list[str] | None = None) -> int:
    """Convert; 0. The last line of stdout is one JSON object.

    Raises:
        CheckpointError: Bad input, before anything is written.
        OSError: The file cannot be written.
    """
    options = _parser().parse_args(argv)

    checkpoint = read_checkpoint(options.checkpoint, options.ema)
    model = options.model or checkpoint.model
    if model is None:
        raise zoo.CheckpointError(f"{options.checkpoint}: does not say of which network it is: pass --model")
    network = zoo.create_model(model, checkpoint=checkpoint, deploy=options.to == "stock")
    with torch.device("meta"):
        train = zoo.create_model(model, **_built_with(checkpoint.metadata))
    state = in_layout(network, train, zoo.model_entry(model).name, options.to)
    structure = "train" if network.state_dict().keys() == train.state_dict().keys() else "deployed"
    facts = {"model": model, "structure": structure, "layout": options.to, "tensors": len(state)}
    metadata = {**checkpoint.metadata, "model": model, "structure": structure} if options.to == "zoo" else None
    save_weights(options.output, state, metadata)
    print(f"{options.output}: {model}, {structure} structure, {options.to} layout, {len(state)} tensors")
    print(json.dumps({**facts, "output": options.output}))
    return 0


def _built_with(metadata: dict) -> dict:
    block = {"block": metadata["block"]} if metadata.get("block") else {}
    return {**metadata.get("model_kwargs", {}), **block}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zoo convert-checkpoint",
        description="Rewrite a checkpoint in another layout. Its own layout and structure are recognised.",
    )
    parser.add_argument("checkpoint", metavar="IN", help="the file: any known layout, .pth or .safetensors")
    parser.add_argument("--model", metavar="NAME", help="registered name; files of ours know theirs")
    parser.add_argument(
        "--to",
        choices=LAYOUTS,
        default="zoo",
        help="official: the authors' names; timm: timm's; stock: deployed, for torchvision's or timm's plain network; "
        "zoo: ours (default)",
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="file to write; .safetensors, else torch.save"
    )
    parser.add_argument("--ema", action="store_true", help="take the averaged weights of a training checkpoint")
    return parser
