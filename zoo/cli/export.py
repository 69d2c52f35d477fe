"""`zoo export CHECKPOINT`: the network as an ONNX or OpenVINO file, compared with PyTorch before it takes its name."""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

import zoo
from zoo.checkpoints.read import Checkpoint, read_checkpoint
from zoo.cli.errors import UsageError, check_folders, report
from zoo.data import EvalTransform, ImageSet, create_dataset, eval_loader, spread
from zoo.export.engines import check_name
from zoo.export.files import STRUCTURES, ExportedFile, check_request, export_file
from zoo.reparam.deploy import is_deployed
from zoo.reparam.verify import example_input


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0, or 2 for bad input, 1 for a mishap. The last line of stdout is one JSON object."""
    argv = sys.argv[1:] if argv is None else argv
    return report("zoo export", lambda: _run(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="zoo export",
        description="Write a network as an ONNX or OpenVINO file, in deployed structure unless told otherwise.",
    )
    add = parser.add_argument
    add("checkpoint", nargs="?", metavar="CHECKPOINT", help="weights, in any layout and structure")
    add("--output", required=True, metavar="FILE", help="the .onnx or .xml file to write")
    add("--format", default="onnx", help="onnx or openvino (default: %(default)s)")
    add("--model", help="the network's name, if the checkpoint does not hold it")
    add("--pretrained", action="store_true", help="published weights of --model instead of CHECKPOINT")
    add("--ema", action="store_true", help="the averaged weights of a training checkpoint")
    add("--structure", default="deployed", help="deployed, train, or both: FILE and FILE-train (default: %(default)s)")
    add("--precision", default="fp32", help="fp32, int8; openvino also fp16 (default: %(default)s)")
    add("--img-size", type=int, metavar="N", help="side in pixels (default: the checkpoint's, or the network's)")
    add("--batch-size", type=int, default=1, metavar="N", help="images per call (default: %(default)s)")
    add("--dynamic-batch", action="store_true", help="leave the number of images free")
    add("--opset", type=int, metavar="N", help="ONNX operator set (default: PyTorch's)")
    add("--data-dir", metavar="DIR", help="int8: images to calibrate on, as for validate")
    add("--dataset", default="", metavar="NAME", help="int8: dataset to calibrate on, as for validate")
    add("--split", default="train", help="int8: its split (default: %(default)s)")
    add("--calibration-images", type=int, default=256, metavar="N", help="how many (default: %(default)s)")
    add("--random-calibration", action="store_true", help="int8 on noise: for timing only, the answers are useless")
    return parser


def _run(options: argparse.Namespace) -> int:
    for name in ("batch_size", "calibration_images", "img_size", "opset"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    check_folders(options.output)

    check_name("structure", options.structure, (*STRUCTURES, "both"))
    structures = STRUCTURES if options.structure == "both" else (options.structure,)
    for structure in structures:
        check_request(Path(options.output), options.format, structure, options.precision, options.opset)
    name, model, checkpoint = _network(options)
    example = _example(model, checkpoint, options)
    if "train" in structures:
        _require_branches(model, name)
    files = [
        export_file(
            model,
            _path(options.output, structure, options.structure == "both"),
            example,
            format=options.format,
            structure=structure,
            precision=options.precision,
            dynamic_batch=options.dynamic_batch,
            opset=options.opset,
            calibration=_calibration(model, example, options) if options.precision == "int8" else None,
        )
        for structure in structures
    ]
    _show(files)
    print(json.dumps({"model": name, "files": [_record(file) for file in files]}))
    return 0


def _network(options: argparse.Namespace) -> tuple[str, nn.Module, Checkpoint | None]:
    """The network's name, itself in eval mode, and the file it came from."""
    if (options.checkpoint is None) == (not options.pretrained):
        raise UsageError("give a CHECKPOINT, or --pretrained with --model; random weights are not exported")
    checkpoint = read_checkpoint(options.checkpoint, options.ema) if options.checkpoint else None
    name = options.model or (checkpoint and checkpoint.model)
    if not name:
        raise UsageError(f"{options.checkpoint or '--pretrained'}: which network? name it with --model")
    kwargs: dict[str, Any] = {}
    if checkpoint is not None:
        kwargs |= checkpoint.metadata.get("model_kwargs") or {}
        kwargs |= {key: checkpoint.metadata[key] for key in ("num_classes", "block") if checkpoint.metadata.get(key)}
    return name, zoo.create_model(name, options.pretrained, checkpoint=checkpoint, **kwargs).eval(), checkpoint


def _example(model: nn.Module, checkpoint: Checkpoint | None, options: argparse.Namespace) -> Tensor:
    """Random images of the size that the file will take."""
    like = example_input(model, 1)
    trained = (checkpoint.metadata.get("data") or {}).get("img_size") if checkpoint else None
    side = options.img_size or trained
    size = (side, side) if side else tuple(like.shape[2:])
    return torch.randn(options.batch_size, like.shape[1], *size, generator=torch.Generator().manual_seed(0))


def _require_branches(model: nn.Module, name: str) -> None:
    if is_deployed(model):
        raise UsageError(f"{name}: the weights are deployed already, no branches are left for --structure train")


def _path(output: str, structure: str, both: bool) -> Path:
    path = Path(output)
    return path.with_stem(f"{path.stem}-train") if both and structure == "train" else path


def _calibration(
    model: nn.Module, example: Tensor, options: argparse.Namespace
) -> Sequence[Tensor] | Literal["random"]:
    """Images for int8, preprocessed as the network wants them."""
    if options.random_calibration:
        return "random"
    if options.data_dir is None and not options.dataset:
        raise UsageError("int8 needs images: --data-dir, --dataset, or --random-calibration to time it only")

    dataset = create_dataset(options.dataset, options.data_dir, options.split)
    if not isinstance(dataset, ImageSet):
        raise UsageError(f"--dataset {options.dataset}: a stream cannot be sampled evenly; use a folder")
    wanted: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    fields = ("crop_pct", "interpolation", "mean", "std")
    transform = EvalTransform(img_size=example.shape[-1], **{key: wanted[key] for key in fields if key in wanted})
    chosen = spread(dataset, options.calibration_images)
    return [batch[0] for batch in eval_loader(chosen, transform, batch_size=min(32, len(chosen)))]


def _show(files: list[ExportedFile]) -> None:
    """Files, their parity, and their operations side by side."""
    for file in files:
        parity = "not checked: install 'reparam-zoo[onnx]'" if file.parity is None else str(file.parity)
        print(f"{file.path}: {file.structure} structure, {file.precision}, {file.num_bytes / 1e6:.2f} MB; {parity}")
    names = sorted({name for file in files for name in file.nodes})
    width = max(len(name) for name in names)
    print(f"{'operation':{width}}" + "".join(f"{file.structure:>10}" for file in files) + _head(files))
    for name in names:
        counts = [file.nodes.get(name, 0) for file in files]
        print(f"{name:{width}}" + "".join(f"{count:10}" for count in counts) + _change(counts))


def _record(file: ExportedFile) -> dict[str, Any]:
    """As JSON takes it: that answers are equal, an infinite SQNR, is null there."""
    record = dataclasses.asdict(file)
    if file.parity is not None and not math.isfinite(file.parity.sqnr_db):
        record["parity"]["sqnr_db"] = None
    return record


def _head(files: list[ExportedFile]) -> str:
    return f"{'train more':>12}" if len(files) == 2 else ""


def _change(counts: list[int]) -> str:
    return f"{counts[1] - counts[0]:+12}" if len(counts) == 2 else ""
