"""Every recipe runs: a few steps of one epoch, on bundled images.

Each with the smallest network of its kind; of recipes that are then the same in every setting, one runs for all.
"""

import dataclasses
import re
from functools import partial

import pytest
import yaml

from zoo.cli.config import parse
from zoo.engine.config import TrainConfig
from zoo.engine.smoke import smoke
from zoo.engine.train import train
from zoo.models import cifar, repghostnet
from zoo.models.flat_head import FlatHead
from zoo.models.mobileone import MobileOne, Variant
from zoo.models.repvgg import VARIANTS, RepVGG
from zoo.models.repvggplus import RepVGGPlus, RepVGGSE
from zoo.registry import _ENTRIES
from zoo.resources import find_config, list_configs

RECIPES = list_configs()
# One recipe of a family runs always, on a small network. All run in CI.
QUICK = ("quickstart", "repvgg_a0_120ep", "acnet_mobilenet_v1", "dbb_mobilenet_v1", "repghostnet_0.5x", "mobileone_s2")
QUICK += ("acnet_cifar_quick",)
SHORTENED = {"epochs", "warmup_epochs", "batch_size", "img_size", "dataset", "workers"}
"""Settings that a smoke run of one epoch has its own of."""
TINY = {
    "repvgg_d2se": partial(RepVGGSE, VARIANTS["repvgg_tiny"]),
    "repvggplus_l2pse": partial(RepVGGPlus, VARIANTS["repvgg_tiny"]),
    "orepa_repvgg_a0": partial(RepVGG, VARIANTS["repvgg_tiny"], block="orepa_repvgg"),
    "mobileone_s4": partial(MobileOne, Variant((0.75, 1, 1, 2), se=True)),
}
"""Kinds of network that are registered in large sizes only; built small for the test."""
THIN = {"resnet18": {"channels": (8, 16, 32, 64)}, "densenet121": {"growth_rate": 8, "block_config": (2, 2, 2, 2)}}
"""Arguments by which timm builds a smaller one, plain or with blocks."""


def small(model):
    """The smallest network built like another one: what a recipe adds to it is the same."""
    model = re.sub(r"resnet(34|50|101)$", "resnet18", model)
    model = re.sub(r"^(qa|)repvgg_[ab]\w+$", r"\1repvgg_tiny", model)
    model = re.sub(r"^orepa_repvgg_[ab]\w+$", "orepa_repvgg_a0", model)
    model = re.sub(r"_cifar100$", "_cifar10", model)  # the classes are those of the bundled images
    model = re.sub(r"^mobileone_s[0-3]$", "mobileone_s0", model)
    return re.sub(r"^repghostnet_[\d.]+x$", "repghostnet_0.5x", model)


@pytest.fixture
def small_networks(monkeypatch):
    """Every kind of network a few layers deep or some channels wide: a recipe says nothing of either."""
    builders = dict(TINY)
    for name, entry in _ENTRIES.items():
        if (plain := name.rpartition("_")[2]) in THIN:
            builders[name] = partial(entry.builder, **THIN[plain])
        elif "vgg16_cifar" in name:
            builders[name] = partial(cifar.build, cifar.cifar_quick, **entry.builder.keywords)
    for name, builder in builders.items():
        monkeypatch.setitem(_ENTRIES, name, dataclasses.replace(_ENTRIES[name], builder=builder))
    monkeypatch.setattr("zoo.models.mobileone.DEPTHS", (1, 2, 2, 1))
    monkeypatch.setattr("zoo.models.mobileone.SE_UNITS", (0, 0, 1, 1))
    monkeypatch.setattr("zoo.models.repghostnet.STAGES", tuple(rows[:1] for rows in repghostnet.STAGES))
    monkeypatch.setattr("zoo.models.alexnet.FlatHead", lambda *sizes: FlatHead(*sizes[:2], (64, 64), *sizes[3:]))


def shortened(recipe, folder):
    flags = ["--config", recipe, "--epochs", "1", "--smoke", "--output", str(folder)]
    config = smoke(parse(TrainConfig, flags, "train.py"))
    config.model.model = small(config.model.model)
    if "alexnet" not in config.model.model:  # it pools smaller images away
        config.data.img_size = 32
    return config


def distinct_recipes():
    """One name for all recipes that run with the same settings; it is in `QUICK` if any of them is."""
    names = {}
    for name in [*QUICK, *RECIPES]:
        recipe = yaml.safe_load(find_config(name).read_text())
        settings = {key: value for key, value in recipe.items() if key not in SHORTENED}
        names.setdefault(repr(sorted({**settings, "model": small(recipe["model"])}.items())), name)
    return sorted(names.values())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in distinct_recipes()]
)
def test_every_recipe_runs(name, small_networks, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.engine.train.show_results", lambda *_: None)  # drawn in the tests of `train.py`
    results = train(shortened(name, tmp_path)).results
    assert results["epochs"] == 1 and results["skipped_steps"] == 0
    assert results["max_relative_error"] < 1e-3
    assert (tmp_path / "smoke" / "deployed.safetensors").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == ["smoke"]  # the run's own folder stays free for the run


def test_a_smoke_run_starts_anew_whatever_came_before(tmp_path):
    flags = ["--config", "quickstart", "--epochs", "1", "--output", str(tmp_path)]
    for more in ([], ["--resume", "auto"]):
        config = smoke(parse(TrainConfig, [*flags, *more], "train.py"))
        assert config.run.resume is None
        assert train(config).results["epochs"] == 1
