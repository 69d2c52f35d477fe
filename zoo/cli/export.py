"""`zoo export CHECKPOINT`: the network as a file, compared with PyTorch before it takes its name."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from zoo.cli.errors import UsageError
from zoo.cli.networks import calibration, open_weights
from zoo.cli.results import show_log
from zoo.data import labelled_images
from zoo.export.config import ExportConfig
from zoo.export.files import FORMATS, STRUCTURES, ExportedFile, check_request, export_file
from zoo.export.int8 import Goal
from zoo.network import example_input, preprocessing
from zoo.results.table import Table
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
    if "train" in structures and is_deployed(model):
        raise UsageError(f"{name}: the weights are deployed already, no branches are left for --structure train")
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
    facts = [{**dataclasses.asdict(file), "parity": file.parity and file.parity.to_dict()} for file in files]
    return {"model": name, "files": facts}


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
    images = labelled_images(config.dataset, config.data_dir, preprocessing(model), example.shape[-1])
    return Goal(images, config.max_drop)


def _show(files: list[ExportedFile]) -> None:
    """Files, their parity, and their operations side by side."""
    for file in files:
        parity = f"not compared with PyTorch: {file.unchecked}" if file.parity is None else str(file.parity)
        print(f"{file.path}: {file.structure} structure, {file.precision}, {file.num_bytes / 1e6:.2f} MB; {parity}")
        if file.attempts:
            print("top-1, %: " + ", ".join(f"{attempt.way} {attempt.top1:.2f}" for attempt in file.attempts))
    rows = []
    for name in sorted({name for file in files for name in file.nodes}):
        counts = {file.structure: file.nodes.get(name, 0) for file in files}
        more = {"train more": f"{counts['train'] - counts['deployed']:+}"} if len(files) == 2 else {}
        rows.append({"operation": name, **counts, **more})
    if rows:
        print(Table.of(rows).text())
