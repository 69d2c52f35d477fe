"""`zoo expand CHECKPOINT`: give a plain or deployed network branches, its function preserved, to train it further."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from zoo.checkpoints import save_weights
from zoo.checkpoints.stock import stock_state_dict
from zoo.cli.errors import UsageError
from zoo.cli.networks import calibration, inherited, open_network
from zoo.network import example_input
from zoo.network import facts as about
from zoo.reparam.block import MultiBranchConv2d
from zoo.surgery.config import ExpandConfig
from zoo.surgery.convert import convert_with_report
from zoo.surgery.refit_norms import refit_norms

logger = logging.getLogger(__name__)


def run(config: ExpandConfig) -> dict[str, Any]:
    """Expand, prove, write.

    Raises:
        CheckpointError, UsageError, ValueError: Bad input, before anything is written.
        EquivalenceError: The expanded network differs; nothing is written.
        OSError: The file cannot be written.
    """
    name, model, checkpoint, built = open_network(config)
    if not zoo.is_deployed(model):
        raise UsageError(f"{config.checkpoint}: has branches already; `zoo deploy` it first to give it others")
    example = example_input(model, 2, config.img_size)
    images = calibration(model, example, config)
    if images is None:
        logger.warning("no --data-dir or --dataset: noise for calibration; the first training steps may be rough")
        images = [torch.randn(8, *example.shape[1:], generator=torch.Generator().manual_seed(1))]
    facts = {**inherited(checkpoint), **about(model), "model": name, "structure": "train", "block": config.block}
    built["num_classes"] = getattr(model, "num_classes", None)  # the file's, whether or not it says so
    model = _unfolded(name, model, built, example, images)
    with torch.device("meta"):
        wanted = zoo.create_model(name, **{**built, "block": config.block})  # what the file will be loaded into
    blocks = {place for place, module in wanted.named_modules() if isinstance(module, MultiBranchConv2d)}
    expanded, report = convert_with_report(
        model, config.block, lambda place, _: place in blocks, init="preserve", example=example, calibration=images
    )
    if odd := sorted(wanted.state_dict().keys() ^ expanded.state_dict().keys()):
        raise UsageError(
            f"{name} with block {config.block!r} has other layers than the expanded network ({', '.join(odd[:3])}): "
            "use zoo.expand in Python"
        )
    save_weights(config.output, expanded.state_dict(), {"num_classes": getattr(model, "num_classes", None), **facts})
    print(report.table())
    print(f"{config.output}: {name}, {len(report.replaced)} convolutions expanded, function preserved")
    result = {"model": name, "output": config.output, "block": config.block}
    return {**result, "expanded": len(report.replaced), "left": len(report.left)}


def _unfolded(
    name: str, model: nn.Module, built: dict[str, Any], example: Tensor, images: Sequence[Tensor]
) -> nn.Module:
    """The same function with a BatchNorm wherever the network has one in training, so that it can be trained."""
    reference = zoo.create_model(name, **built).eval()
    reference = zoo.deploy(reference, example, fold_regions=False, verify=False)
    state = model.state_dict()
    folded = {key.removesuffix(".running_var") for key in reference.state_dict().keys() - state.keys()}
    norms = [norm for norm in folded if f"{norm}.running_var" in reference.state_dict()]
    reference.load_state_dict(stock_state_dict(state, reference, example))
    refit_norms(reference, images, norms)
    return reference
