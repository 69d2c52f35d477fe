"""Every recipe runs: a few steps of one epoch, on bundled images."""

import re

import pytest

from zoo.cli.config import parse
from zoo.engine.config import TrainConfig
from zoo.engine.smoke import smoke
from zoo.engine.train import train
from zoo.resources import list_configs

RECIPES = list_configs()
# One recipe of a family runs always, on a small network. All run in CI.
QUICK = ("quickstart", "repvgg_a0_120ep", "acnet_mobilenet_v1", "dbb_mobilenet_v1", "repghostnet_0.5x", "mobileone_s2")
QUICK += ("acnet_cifar_quick",)


def small(model):
    """The smallest network built like another one: what a recipe adds to it is the same."""
    model = re.sub(r"resnet(34|50|101)$", "resnet18", model)
    return re.sub(r"repvgg_[abd]\w+$", "repvgg_a0", model)


def run_shortly(folder, *flags):
    flags = [*flags, "--epochs", "1", "--smoke", "--output", str(folder)]
    config = smoke(parse(TrainConfig, flags, "train.py"))
    config.model.model = small(config.model.model)
    results = train(config).results
    assert results["epochs"] == 1 and results["skipped_steps"] == 0
    assert results["max_relative_error"] < 1e-3
    assert (folder / "smoke" / "deployed.safetensors").stat().st_size > 0
    assert [path.name for path in folder.iterdir()] == ["smoke"]  # the run's own folder stays free for the run


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in RECIPES])
def test_every_recipe_runs(name, tmp_path):
    run_shortly(tmp_path, "--config", name)


def test_a_smoke_run_starts_anew_whatever_came_before(tmp_path):
    flags = ["--config", "quickstart", "--epochs", "1", "--output", str(tmp_path)]
    for more in ([], ["--resume", "auto"]):
        config = smoke(parse(TrainConfig, [*flags, *more], "train.py"))
        assert config.run.resume is None
        assert train(config).results["epochs"] == 1
