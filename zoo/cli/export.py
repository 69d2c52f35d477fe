"""`zoo export CHECKPOINT`: the network as a file, compared with PyTorch before it takes its name."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from zoo.cli.errors import UsageError
from zoo.cli.networks import calibration, labelled, open_weights
from zoo.cli.results import show_log
from zoo.export.config import ExportConfig
from zoo.export.files import FORMATS, STRUCTURES, ExportedFile, check_request, export_file
from zoo.export.int8 import Goal
from zoo.network import example_input
from zoo.surgery.deploy import is_deployed


def run(config: ExportConfig) -> dict[str, Any]:
    """Write the files, compare them with PyTorch, print what they hold."""
    show_log()
    kind = config.format or next(name for name, kind in FORMATS.items() if config.output.endswith(kind.suffix))
    structures = STRUCTURES if config.structure == "both" else (config.structure,)
    for structure in structures:
        batch_size = None if config.dynamic_batch else config.batch_size
        request = (config.precision, config.opset, batch_size, config.max_drop)
        check_request(Path(config.output), kind, structure, *request)
    name, model = open_weights(config, config.pretrained)
    example = example_input(model, config.batch_size, config.img_size)
    if "train" in structures:
        _require_branches(model, name)
    files = [
        export_file(
            model,
            _path(config.output, FORMATS[kind].suffix, structure, config.structure == "both"),
            example,
            format=kind,
            structure=structure,
            precision=config.precision,
            dynamic_batch=config.dynamic_batch,
            opset=config.opset,
            calibration=_calibration(model, example, config) if config.precision == "int8" else None,
            goal=_goal(model, example, config),
        )
        for structure in structures
    ]
    _show(files)
    return {"model": name, "files": [_record(file) for file in files]}


def _require_branches(model: nn.Module, name: str) -> None:
    if is_deployed(model):
        raise UsageError(f"{name}: the weights are deployed already, no branches are left for --structure train")


def _path(output: str, suffix: str, structure: str, both: bool) -> Path:
    path = Path(output)
    return path.with_name(f"{path.name.removesuffix(suffix)}-train{suffix}") if both and structure == "train" else path


def _calibration(model: nn.Module, example: Tensor, config: ExportConfig) -> Sequence[Tensor] | Literal["random"]:
    if config.random_calibration:
        return "random"
    images = calibration(model, example, config)
    if images is None:
        raise UsageError("int8 needs images: --data-dir, --dataset, or --random-calibration to time it only")
    return images


def _goal(model: nn.Module, example: Tensor, config: ExportConfig) -> Goal | None:
    if config.max_drop is None:
        return None
    if config.random_calibration:
        raise UsageError("--max-drop: int8 on noise has no top-1 to hold, drop --random-calibration")
    return Goal(labelled(model, example, config), config.max_drop)


def _show(files: list[ExportedFile]) -> None:
    """Files, their parity, and their operations side by side."""
    for file in files:
        parity = f"not compared with PyTorch: {file.unchecked}" if file.parity is None else str(file.parity)
        print(f"{file.path}: {file.structure} structure, {file.precision}, {file.num_bytes / 1e6:.2f} MB; {parity}")
        if file.attempts:
            print("top-1, %: " + ", ".join(f"{attempt.way} {attempt.top1:.2f}" for attempt in file.attempts))
    names = sorted({name for file in files for name in file.nodes})
    if not names:
        return
    width = max(len(name) for name in names)
    print(f"{'operation':{width}}" + "".join(f"{file.structure:>10}" for file in files) + _head(files))
    for name in names:
        counts = [file.nodes.get(name, 0) for file in files]
        print(f"{name:{width}}" + "".join(f"{count:10}" for count in counts) + _change(counts))


def _record(file: ExportedFile) -> dict[str, Any]:
    """Give a file's facts as JSON takes them."""
    return {**dataclasses.asdict(file), "parity": file.parity and file.parity.to_dict()}


def _head(files: list[ExportedFile]) -> str:
    return f"{'train more':>12}" if len(files) == 2 else ""


def _change(counts: list[int]) -> str:
    return f"{counts[1] - counts[0]:+12}" if len(counts) == 2 else ""
