"""Every recipe resolves to its paper's numbers, and runs."""

import dataclasses
import math
import random
import re
from functools import cache
from typing import Any

import pytest
import torch
from timm.data.auto_augment import RandAugment

import zoo
from zoo.cli.config import parse
from zoo.engine.build import eval_transform, settings_at, train_transform
from zoo.engine.config import TrainConfig
from zoo.engine.optim import Schedule, create_optimizer, param_groups
from zoo.engine.smoke import smoke
from zoo.engine.train import train
from zoo.paper.tables import table
from zoo.resources import find_config, list_configs

RECIPES = list_configs()
REPVGG = [name for name in RECIPES if name.startswith("repvgg_")]
REPVGG_120 = [name for name in REPVGG if name.endswith("_120ep")]
REPVGG_200 = [name for name in REPVGG if name.endswith("_200ep")]
ACNET = [name for name in RECIPES if name.startswith("acnet_")]
DBB = [name for name in RECIPES if name.startswith("dbb_")]
REPGHOST = [name for name in RECIPES if name.startswith("repghostnet_")]
MOBILEONE = [name for name in RECIPES if name.startswith("mobileone_")]
IMAGENET = 1281167
RAUG15 = "rand-m14-mmax14-mstd101-n2-p1"


@cache
def recipe(name: str) -> TrainConfig:
    return parse(TrainConfig, ["--config", name], "train.py")


@cache
def network(model: str) -> torch.nn.Module:
    return zoo.create_model(model, device="meta")


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


def test_there_is_one_recipe_per_published_row():
    assert [len(group) for group in (REPVGG_120, REPVGG_200, ACNET, DBB, REPGHOST, MOBILEONE)] == [9, 3, 6, 4, 8, 5]
    rest = set(RECIPES) - {*REPVGG, *ACNET, *DBB, *REPGHOST, *MOBILEONE}
    assert rest == {"quickstart", "repvggplus_l2pse"}
    assert set(REPVGG) - {*REPVGG_120, *REPVGG_200} == {"repvgg_d2se"}


@pytest.mark.parametrize("name", RECIPES)
def test_the_network_is_registered_and_the_batch_is_the_papers(name):
    config = recipe(name)
    assert config.model.model in zoo.list_models()
    if name != "quickstart":
        assert config.data.batch_size * 8 == config.optim.lr_base_size  # on the 8 GPUs of the papers


@pytest.mark.parametrize("name", [*REPVGG, "repvggplus_l2pse"])
def test_repvgg_decays_kernels_and_the_identity_scale_only(name):
    decay = 4e-5 if name == "repvggplus_l2pse" else 1e-4
    bias_scale = 1.0 if name == "repvggplus_l2pse" else 2.0
    sizes = {parameter: p.ndim for parameter, p in network(recipe(name).model.model).named_parameters()}
    for parameter, found in groups(name).items():
        if parameter.endswith("bias"):
            assert found == (0.0, bias_scale), parameter
        elif sizes[parameter] == 1 and not parameter.endswith(".identity.bn.weight"):
            assert found == (0.0, 1.0), parameter
        else:
            assert found == (decay, 1.0), parameter
    identity = [p for p in groups(name) if p.endswith(".identity.bn.weight")]
    assert len(identity) > 10


@pytest.mark.parametrize("name", [*ACNET, *DBB])
def test_acnet_and_dbb_decay_everything_but_the_depthwise_layers(name):
    model = network(recipe(name).model.model)
    depthwise = {
        f"{path}.{parameter}"
        for path, module in model.named_modules()
        if getattr(getattr(module, "spec", None), "groups", 1) > 1
        for parameter, _ in module.named_parameters()
    }
    assert bool(depthwise) == ("mobilenet" in name)
    for parameter, (decay, scale) in groups(name).items():
        assert decay == (0.0 if parameter in depthwise else 1e-4), parameter
        assert scale == (2.0 if parameter.endswith("bias") else 1.0), parameter


@pytest.mark.parametrize("name", [*REPGHOST, *MOBILEONE])
def test_repghost_and_mobileone_decay_kernels_only(name):
    sizes = {parameter: p.ndim for parameter, p in network(recipe(name).model.model).named_parameters()}
    decay = 1e-5 if name in REPGHOST else 1e-4
    assert groups(name) == {parameter: (decay if n > 1 else 0.0, 1.0) for parameter, n in sizes.items()}


@pytest.mark.parametrize("name", [*REPVGG_120, *DBB, *ACNET])
def test_plain_cosine_over_all_steps(name):
    steps = IMAGENET // 256
    epochs = 100 if name in ACNET and name not in ("acnet_alexnet", "acnet_mobilenet_v1") else 120
    assert recipe(name).schedule.epochs == epochs
    assert lr_at(name, 0, steps) == 0.1
    assert lr_at(name, 1, steps) == pytest.approx(0.05 * (1 + math.cos(math.pi / (epochs * steps))))
    assert lr_at(name, epochs * steps // 2, steps) == pytest.approx(0.05)
    assert lr_at(name, epochs * steps - 1, steps) < 1e-9


@pytest.mark.parametrize("name", [*REPVGG_200, "repvgg_d2se", "repvggplus_l2pse"])
def test_long_repvgg_recipes_warm_up_for_five_epochs(name):
    epochs, steps = (300 if name == "repvggplus_l2pse" else 200), 100
    assert lr_at(name, 0, steps) == 0.0
    assert lr_at(name, 250, steps) == pytest.approx(0.05)
    at = 20 * steps
    assert lr_at(name, at, steps) == pytest.approx(0.05 * (1 + math.cos(math.pi * at / (epochs * steps))))


@pytest.mark.parametrize("name", REPGHOST)
def test_repghost_has_the_rates_of_its_log(name):
    steps = IMAGENET // 1024
    assert steps == 1251
    assert lr_at(name, 1250, steps) == 1e-4  # all of epoch 0
    assert lr_at(name, 1251, steps) == pytest.approx(0.1201, abs=5e-5)
    assert lr_at(name, 299 * 1251, steps) == pytest.approx(2.64e-5, rel=1e-2)


@pytest.mark.parametrize("name", MOBILEONE)
def test_mobileone_anneals_its_weight_decay(name):
    schedule, optimizer, config = schedule_of(name, 100)
    assert config.schedule.epochs == 300
    for step, wanted in [(0, 1e-4), (15000, 5.5e-5), (29999, 1e-5)]:
        schedule.set(step)
        assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_momentum_is_nesterovs_where_the_authors_code_had_it(name):
    optimizer = create_optimizer(torch.nn.Linear(2, 2), dataclasses.replace(recipe(name).optim, no_decay=["bias"]))
    assert optimizer.defaults["momentum"] == 0.9
    assert optimizer.defaults["nesterov"] is (name in (*REPGHOST, "repvggplus_l2pse", "quickstart"))


@pytest.mark.parametrize("name", RECIPES)
def test_averaging_smoothing_and_mixing_are_the_papers(name):
    config = recipe(name)
    average = config.schedule.model_ema_decay if config.schedule.model_ema else None
    long = name in (*REPVGG_200, "repvgg_d2se", "repvggplus_l2pse")
    if name in REPGHOST:
        assert average == 0.9999 and config.model.drop == 0.2
    elif name in MOBILEONE:
        assert average == 0.9995
    elif name != "quickstart":
        assert average is None
    assert config.augment.smoothing == (0.1 if long or name in (*REPGHOST, *MOBILEONE) else 0.0)
    assert (config.augment.mixup, config.augment.cutmix) == (0.2 if long else 0.0, 0.0)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "quickstart"])
def test_training_images_are_cut_as_in_the_paper(name):
    config = recipe(name)
    data, augment = settings_at(config, 299)
    transform = train_transform(data, augment, network(config.model.model))
    assert transform.img_size == (256 if name == "repvggplus_l2pse" else 224)
    assert (transform.scale, transform.hflip, transform.vflip) == ((0.08, 1.0), 0.5, 0.0)
    assert transform.interpolation == ("random" if name in REPGHOST else "bilinear")
    resnet = name in ("dbb_resnet18", "dbb_resnet50")
    jitter = (0.4, 0.0, 0.4, 0.4) if resnet else 0.4 if name in REPGHOST else ()
    assert transform.color_jitter == jitter
    assert transform.pca_lighting == (0.1 if resnet else 0.0)
    assert (transform.reprob, transform.remode) == ((0.2, "pixel") if name in REPGHOST else (0.0, "const"))
    policies = dict.fromkeys((*REPVGG_200, "repvgg_d2se"), "original") | {"repvggplus_l2pse": RAUG15}
    policies |= {f"repghostnet_{width}x": "rand-m9-mstd0.5" for width in ("1.3", "1.5", "2.0")}
    policies |= {f"mobileone_s{size}": "rand-m7-mstd0.5-inc1" for size in (2, 3, 4)}
    assert transform.aa == policies.get(name)
    assert callable(transform.build())


@pytest.mark.parametrize("name", MOBILEONE[2:])
def test_mobileone_grows_its_images_and_their_distortion(name):
    settings = {epoch: settings_at(recipe(name), epoch) for epoch in (0, 36, 37, 111, 112, 299)}
    sizes = {epoch: data.img_size for epoch, (data, _) in settings.items()}
    assert sizes == {0: 160, 36: 160, 37: 192, 111: 192, 112: 224, 299: 224}
    policies = [augment.aa for _, augment in settings.values()]
    assert policies == [f"rand-m{m}-mstd0.5-inc1" for m in (2, 2, 5, 5, 7, 7)]


def test_repvggplus_distorts_with_the_magnitudes_of_its_authors():
    data, augment = settings_at(recipe("repvggplus_l2pse"), 0)
    transform: Any = train_transform(data, augment, network("repvggplus_l2pse")).build()
    (policy,) = [op for op in transform.transforms if isinstance(op, RandAugment)]
    assert (policy.num_layers, len(policy.ops)) == (2, 15)
    shear = next(op for op in policy.ops if op.name == "ShearX")
    drawn = []
    shear.aug_fn = lambda image, factor, **_: drawn.append(abs(factor) / 0.3 * 10)
    for seed in range(200):
        random.seed(seed)
        shear(None)
    assert len(drawn) == 200 and min(drawn) < 1 and 13 < max(drawn) <= 14


@pytest.mark.parametrize("name", RECIPES)
def test_processes_keep_their_own_statistics_where_the_authors_code_said_so(name):
    assert recipe(name).hardware.broadcast_buffers is (name not in (*DBB, "repvggplus_l2pse"))
    assert not recipe(name).hardware.sync_bn


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "quickstart"])
def test_validation_images_are_cut_as_in_the_paper(name):
    config = recipe(name)
    transform = eval_transform(config.data, network(config.model.model))
    large = name in ("repvgg_d2se", "repvggplus_l2pse")
    assert transform.img_size == (320 if large else 224)
    if name not in MOBILEONE:
        assert transform.crop_pct == (1.0 if large else 0.875)
        assert transform.interpolation == ("bicubic" if name in REPGHOST else "bilinear")


@cache
def figures():
    """Recipe → what its header must say was published."""
    said = {"quickstart": "measured by us, not published", "acnet_resnet34": "top-1: not published"}
    said |= {"acnet_densenet121": "not confirmed in a source", "repvgg_d2se": "83.55 % at 320 pixels, 81.82 % at 224"}
    said |= {"repvggplus_l2pse": "84.06 % at 320 pixels"}
    tables = {"repvgg_table4": REPVGG_120, "repvgg_table5": REPVGG_200, "repghost": REPGHOST, "mobileone": MOBILEONE}
    for title, names in tables.items():
        rows = {row.model: row for row in table(title).rows}
        found = {name: rows[recipe(name).model.model] for name in names}
        number = f"Table {title[-1]}, " if title.startswith("repvgg") else ""
        said |= {name: f"{number}row {row.name} Published top-1: {row.values['top1']} %" for name, row in found.items()}
    for row in table("dbb_table2").rows:
        said |= {f"{block}_{row.model}": f"{row.values[block]} %" for block in ("dbb", "acnet")}
    return said


@pytest.mark.parametrize("name", RECIPES)
def test_the_header_names_command_hardware_and_the_published_figure_of_the_table(name):
    header = " ".join(line[1:].strip() for line in find_config(name).read_text().splitlines() if line[0] == "#")
    assert f"--config {'configs/quickstart.yaml' if name == 'quickstart' else name}" in header
    assert "Hardware" in header or name == "quickstart"
    assert figures()[name] in re.sub(r"(\.\d)0 %", r"\1 %", header)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs(name, tmp_path):
    config = smoke(parse(TrainConfig, ["--config", name, "--epochs", "1", "--output", str(tmp_path)], "train.py"))
    results = train(config).results
    assert results["epochs"] == 1 and results["skipped_steps"] == 0
    assert results["max_relative_difference"] < 1e-3
    assert (tmp_path / "smoke" / "deployed.safetensors").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == ["smoke"]  # the run's own folder stays free for the run


def test_a_smoke_run_starts_anew_whatever_came_before(tmp_path):
    flags = ["--config", "quickstart", "--epochs", "1", "--output", str(tmp_path)]
    for more in ([], ["--resume", "auto"]):
        config = smoke(parse(TrainConfig, [*flags, *more], "train.py"))
        assert config.run.resume is None
        assert train(config).results["epochs"] == 1
