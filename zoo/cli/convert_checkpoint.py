"""`zoo convert-checkpoint`: rewrite a checkpoint of any layout in another."""

from typing import Any

import torch

import zoo
from zoo.checkpoints import in_layout, read_checkpoint, save_weights
from zoo.checkpoints.config import ConvertCheckpointConfig


def run(config: ConvertCheckpointConfig) -> dict[str, Any]:
    """Convert, write.

    Raises:
        CheckpointError: Bad input, before anything is written.
        OSError: The file cannot be written.
    """
    checkpoint = read_checkpoint(config.checkpoint, config.ema, allow_nonfinite=config.allow_nonfinite)
    model = config.model or checkpoint.model
    if model is None:
        raise zoo.CheckpointError(f"{config.checkpoint}: does not say of which network it is: pass --model")
    network = zoo.create_model(model, checkpoint=checkpoint, deploy=config.to == "stock")
    with torch.device("meta"):
        train = zoo.create_model(model, **checkpoint.built_with)
    state = in_layout(network, train, zoo.model_entry(model).name, config.to)
    structure = "train" if network.state_dict().keys() == train.state_dict().keys() else "deployed"
    facts = {"model": model, "structure": structure, "layout": config.to, "tensors": len(state)}
    metadata = {**checkpoint.metadata, "model": model, "structure": structure} if config.to == "zoo" else None
    save_weights(config.output, state, metadata)
    print(f"{config.output}: {model}, {structure} structure, {config.to} layout, {len(state)} tensors")
    return {**facts, "output": config.output}
