"""The recipes by family, and what one of them resolves to."""

import dataclasses
import re
from functools import cache

import torch

import zoo
from zoo.cli.config import parse
from zoo.engine.config import TrainConfig
from zoo.engine.optim import Schedule, create_optimizer, param_groups
from zoo.resources import find_config, list_configs

RECIPES = list_configs()
REPVGG = [name for name in RECIPES if name.startswith("repvgg_")]
REPVGG_120 = [name for name in REPVGG if name.endswith("_120ep")]
REPVGG_200 = [name for name in REPVGG if name.endswith("_200ep")]
QAREPVGG = [name for name in RECIPES if name.startswith("qarepvgg_")]
BASELINES = [name for name in RECIPES if name.endswith("_simple")]  # RepVGG's Table 4
CIFAR = [name for name in RECIPES if re.search(r"cifar|resnet56|wrn", name)]
ACNET = ["acnet_densenet121", "acnet_resnet18", "acnet_resnet34", "acnet_resnet50", "resnet18_100ep"]  # its own code
TABLE2 = {  # DBB's Table 2: recipe → (column, row)
    **{f"dbb_{row}": ("dbb", row) for row in ("alexnet", "mobilenet_v1", "resnet18", "resnet50")},
    **{f"acnet_{row}": ("acnet", row) for row in ("alexnet", "mobilenet_v1")},
    **{f"acnet_{row}_120ep": ("acnet", row) for row in ("resnet18", "resnet50")},
    **{f"{row}_120ep": ("original", row) for row in ("alexnet", "mobilenet_v1", "resnet18", "resnet50")},
}
REPGHOST = [name for name in RECIPES if name.startswith("repghostnet_")]
OREPA = [name for name in RECIPES if name.startswith("orepa_")]
MOBILEONE = [name for name in RECIPES if name.startswith("mobileone_")]
IMAGENET, RAUG15 = 1281167, "rand-m14-mmax14-mstd101-n2-p1"


@cache
def recipe(name: str) -> TrainConfig:
    return parse(TrainConfig, ["--config", name], "train.py")


@cache
def network(model: str) -> torch.nn.Module:
    return zoo.create_model(model, device="meta")


def header(name):
    """The comments of a recipe as one line."""
    return " ".join(line[1:].strip() for line in find_config(name).read_text().splitlines() if line[0] == "#")


def groups(name):
    """Parameter name → (weight decay, learning rate multiple)."""
    config = recipe(name)
    found = param_groups(network(config.model.model), config.optim)
    return {parameter: (g["weight_decay"], g["lr_scale"]) for g in found for parameter in g["names"]}


def schedule_of(name, steps_per_epoch):
    config = recipe(name)
    optimizer = create_optimizer(torch.nn.Linear(2, 2), dataclasses.replace(config.optim, no_decay=["bias"]))
    return Schedule(optimizer, config.optim, config.schedule, steps_per_epoch), optimizer, config


def lr_at(name, step, steps_per_epoch):
    schedule, _, _ = schedule_of(name, steps_per_epoch)
    schedule.set(step)
    return schedule.lr()
