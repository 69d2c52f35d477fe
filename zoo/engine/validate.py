"""Judging a checkpoint: either structure, raw or averaged weights, distorted images, BatchNorm anew."""

import dataclasses
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

import zoo
from zoo.data import EvalLoader
from zoo.data.image_sets import ImageSet, Selection
from zoo.engine import checkpoint
from zoo.engine.build import build_network, count_classes, make_eval_loader, open_dataset
from zoo.engine.config import ValidateConfig
from zoo.engine.distributed import Processes, joined
from zoo.engine.evaluate import Predictions, evaluate
from zoo.engine.hardware import choose_dtype, place, prepare
from zoo.network import declared
from zoo.untrusted import typed

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Judgement:
    """The findings of `validate`."""

    rows: list[dict[str, Any]]
    """the scores of each network (weights/structure) under each distortion"""
    agreements: list[dict[str, Any]]
    """of train and deployed structure, for each kind of weights under each distortion"""
    first: Predictions
    """those of the first row"""
    classes: list[str]
    """names of all that the network tells apart; where the set has none, the number"""


def validate(config: ValidateConfig) -> Judgement:
    """Evaluate what a checkpoint (or a name) holds on a labelled set.

    Raises:
        ValueError, OSError: impossible settings, missing or unfit files.
        EquivalenceError: a deployed structure differed.
    """
    processes = prepare(config.hardware)
    with joined(processes, config.hardware.dist_timeout):
        return _validate(config, processes)


def _validate(config: ValidateConfig, processes: Processes) -> Judgement:
    dataset = open_dataset(config.data, train=False)
    config = _fill_in(config)
    num_classes = count_classes(config.model, dataset)
    weights = _load(config, num_classes)
    for name, network in weights.items():
        weights[name] = place(network, config.hardware, processes.device).eval()
        if config.judge.recalibrate_bn:
            if not any(isinstance(module, _BatchNorm) for module in network.modules()):
                raise ValueError("recalibrate_bn: the network has no BatchNorm left; recalibrate the train structure")
            update_bn(_calibration_images(config, weights[name], processes), weights[name])
    networks = _structures(weights, config.judge.structure)

    first = next(iter(weights.values()))
    choice = config.hardware.amp_dtype
    dtype = choose_dtype("float32" if choice == "auto" else choice, processes.device, first)  # scores are of float32
    labels = _real_labels(config.judge.real_labels, dataset) if config.judge.real_labels else None
    pairs = [(f"{name}/train", f"{name}/deployed") for name in weights if config.judge.structure == "both"]
    names = [str(name) for name in getattr(dataset, "classes", None) or declared(first).get("class_names", ())]
    width = max(num_classes, getattr(first, "num_classes", 0))  # it may tell more classes apart than the set has
    params = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    judged = {"model": config.model.model or ""} | ({"block": config.model.block} if config.model.block else {})
    rows: list[dict[str, Any]] = []
    agreements: list[dict[str, Any]] = []
    found: list[Predictions] = []
    for distort in config.judge.distort:
        loader = make_eval_loader(config, dataset, first, processes, distort)
        predictions, agreeing = evaluate(networks, loader, dtype, processes, pairs)
        for name, predicted in predictions.items():
            real = {} if labels is None else {"real_top1": predicted.real_top1(labels)}
            scores = {**predicted.to_dict(), "params": params[name], **real}
            rows.append({**judged, "network": name, "distort": distort, **scores})
            found.append(predicted)
        for (name, _), agreement in agreeing.items():
            agreements.append({"weights": name.removesuffix("/train"), "distort": distort, **agreement.to_dict()})
    classes = names + [str(number) for number in range(len(names), width)]
    return Judgement(rows=rows, agreements=agreements, first=found[0], classes=classes)


def _fill_in(config: ValidateConfig) -> ValidateConfig:
    """Fill in what the command line leaves open about the network and the checkpoint knows."""
    known = checkpoint.describe(config.model.checkpoint)
    model = checkpoint.settle(config.model, known)
    if model.model is None:
        raise ValueError("model: give --model; a --checkpoint of ours would know its own")
    if config.model.model is None and model.num_classes is None:
        model = dataclasses.replace(model, num_classes=known.get("num_classes"))
    return dataclasses.replace(config, model=model)


def _load(config: ValidateConfig, num_classes: int) -> dict[str, nn.Module]:
    """The networks to judge by kind of weights: raw and ema of a training checkpoint, else just weights."""
    path, wanted = config.model.checkpoint, config.judge.use_ema
    if path is None and wanted in ("ema", "both"):
        raise ValueError("use_ema: needs a --checkpoint of a training")
    if path is None:
        if not config.model.pretrained:
            logger.warning("%s has random weights: --checkpoint or --pretrained gives others", config.model.model)
        return {"weights": build_network(config.model, num_classes)}
    kinds = {"raw": ["raw"], "ema": ["ema"], "both": ["raw", "ema"], "auto": ["weights"]}[wanted]
    if wanted == "auto" and checkpoint.is_run(Path(path)):
        kinds = ["raw" if checkpoint.load(Path(path)).state_dict_ema is None else "ema"]
    fresh = dataclasses.replace(config.model, checkpoint=None, pretrained=False)
    networks = {}
    for kind in kinds:
        weights = zoo.read_checkpoint(path, kind == "ema", allow_nonfinite=config.judge.allow_nonfinite)
        network = build_network(fresh, num_classes)
        networks[kind] = zoo.load_checkpoint(network, weights, name=config.model.model)
    return networks


def _structures(weights: dict[str, nn.Module], structure: str) -> dict[str, nn.Module]:
    """Each of the networks in the structures asked for, named weights/structure."""
    networks: dict[str, nn.Module] = {}
    for name, network in weights.items():
        deployed = zoo.is_deployed(network)
        if deployed and structure in ("train", "both"):
            raise ValueError(f"structure: the checkpoint is deployed, its branches are gone; {structure} needs them")
        if structure in ("train", "both") or (structure == "auto" and not deployed):
            networks[f"{name}/train"] = network
        if structure in ("deployed", "both") or (structure == "auto" and deployed):
            networks[f"{name}/deployed"] = network if deployed else zoo.deploy(network)
    return networks


def _calibration_images(config: ValidateConfig, network: nn.Module, processes: Processes) -> EvalLoader:
    """Training images in random order, cut as in validation."""
    dataset = open_dataset(config.data, train=True)
    if not isinstance(dataset, ImageSet):
        raise ValueError("recalibrate_bn: needs a training set with an index, not a stream")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    images = Selection(dataset, order[: config.judge.recalibrate_bn])
    return make_eval_loader(config, images, network, dataclasses.replace(processes, rank=0, world_size=1))


def _real_labels(path: str, dataset: Any) -> list[list[int]]:
    """ReaL labels in the order of the set; the file lists them by the number in the images' names."""
    try:
        labels = typed(list[list[int]], json.loads(Path(path).read_text()))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"real_labels: {path} is no JSON list of lists of labels ({error})") from error
    if not isinstance(dataset, ImageSet):
        raise ValueError("real_labels: need a validation set with file names, not a stream")
    found = [re.search(r"_(\d{8})\.\w+$", dataset.filename(i)) for i in range(len(dataset))]
    if not all(found):
        raise ValueError(f"real_labels: {dataset.filename(0)} is not named like ILSVRC2012_val_00000001.JPEG")
    numbers = [int(match[1]) for match in found if match]
    if unlisted := [number for number in numbers if not 1 <= number <= len(labels)]:
        raise ValueError(f"real_labels: {path} lists {len(labels)} images, and there is one of number {unlisted[0]}")
    return [labels[number - 1] for number in numbers]
