"""`zoo expand CHECKPOINT`: give a plain or deployed network branches, its function preserved, to train it further."""

import argparse
import json
import logging
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from zoo.checkpoints import save_weights
from zoo.checkpoints.stock import stock_state_dict
from zoo.cli.errors import UsageError
from zoo.cli.networks import add_network_options, check_output, example_for, inherited, open_network
from zoo.data import EvalTransform, ImageSet, create_dataset, eval_loader, spread
from zoo.reparam.convert import convert_with_report
from zoo.reparam.recalibrate import recalibrate

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Expand; 0. The last line of stdout is one JSON object.

    Raises:
        CheckpointError, UsageError, ValueError: Bad input, before anything is written.
        EquivalenceError: The expanded network differs; nothing is written.
        OSError: The file cannot be written.
    """
    options = _parser().parse_args(argv)
    check_output(options.output)

    name, model, checkpoint, built = open_network(options)
    if not zoo.is_deployed(model):
        raise UsageError(f"{options.checkpoint}: has branches already; `zoo deploy` it first to give it others")
    example = example_for(model, checkpoint, options.img_size)
    images = _calibration(model, example, options)
    model = _unfolded(name, model, built, example, images)
    expanded, report = convert_with_report(model, options.block, init="preserve", example=example, calibration=images)
    _check_loadable(name, expanded, {**built, "block": options.block})
    facts = {**inherited(checkpoint), "model": name, "structure": "train", "block": options.block}
    save_weights(options.output, expanded.state_dict(), {"num_classes": getattr(model, "num_classes", None), **facts})
    print(report.table())
    print(f"{options.output}: {name}, {len(report.replaced)} convolutions expanded, function preserved")
    result = {"model": name, "output": options.output, "block": options.block}
    print(json.dumps({**result, "expanded": len(report.replaced), "left": len(report.left)}))
    return 0


def _unfolded(name: str, model: nn.Module, built: dict[str, Any], example: Tensor, images: list[Tensor]) -> nn.Module:
    """The same function with a BatchNorm wherever the network has one in training, so that it can be trained."""
    reference = zoo.create_model(name, **built).eval()
    reference = zoo.deploy(reference, example, fold_norms=False, verify=False)
    state = model.state_dict()
    folded = {key.removesuffix(".running_var") for key in reference.state_dict().keys() - state.keys()}
    norms = [norm for norm in folded if f"{norm}.running_var" in reference.state_dict()]
    reference.load_state_dict(stock_state_dict(state, reference, example))
    recalibrate(reference, images, norms)
    return reference


def _check_loadable(name: str, expanded: nn.Module, built: dict[str, Any]) -> None:
    """`create_model` must be able to build what is written. Raises: UsageError."""
    with torch.device("meta"):
        wanted = zoo.create_model(name, **built).state_dict().keys()
    if odd := sorted(wanted ^ expanded.state_dict().keys()):
        raise UsageError(
            f"{name} with block {built['block']!r} has other layers than the expanded network ({', '.join(odd[:3])}): "
            "use zoo.expand in Python"
        )


def _calibration(model: nn.Module, example: Tensor, options: argparse.Namespace) -> list[Tensor]:
    """Images for the statistics of the new BatchNorms, preprocessed as the network wants them."""
    if options.data_dir is None and not options.dataset:
        logger.warning("no --data-dir or --dataset: noise for calibration; the first training steps may be rough")
        return [torch.randn(8, *example.shape[1:], generator=torch.Generator().manual_seed(1))]

    dataset = create_dataset(options.dataset, options.data_dir, options.split)
    if not isinstance(dataset, ImageSet):
        raise UsageError(f"--dataset {options.dataset}: a stream cannot be sampled evenly; use a folder")
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    wanted = {key: cfg[key] for key in ("crop_pct", "interpolation", "mean", "std") if key in cfg}
    chosen = spread(dataset, options.calibration_images)
    loader = eval_loader(chosen, EvalTransform(img_size=example.shape[-1], **wanted), batch_size=min(64, len(chosen)))
    return [batch[0] for batch in loader]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zoo expand",
        description="Replace K×K convolutions by multi-branch blocks without changing what the network computes, "
        "proven; every branch learns from the first step of the training that follows.",
    )
    add_network_options(parser)
    add = parser.add_argument
    add("--block", metavar="SET", default="dbb", help="the branch set to expand into (default: %(default)s)")
    add("-o", "--output", metavar="FILE", required=True, help="the .safetensors file to write")
    add("--data-dir", metavar="DIR", help="images of the training to come, as for validate")
    add("--dataset", default="", metavar="NAME", help="dataset of the training to come, as for validate")
    add("--split", default="train", help="its split (default: %(default)s)")
    add("--calibration-images", type=int, default=256, metavar="N", help="how many (default: %(default)s)")
    return parser
