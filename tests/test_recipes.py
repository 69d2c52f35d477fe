"""Every recipe resolves to its paper's numbers."""

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
from tests.support.recipes import (
    ACNET,
    BASELINES,
    CIFAR,
    IMAGENET,
    MOBILEONE,
    OREPA,
    QAREPVGG,
    RAUG15,
    RECIPES,
    REPGHOST,
    REPVGG,
    REPVGG_120,
    REPVGG_200,
    TABLE2,
    groups,
    header,
    lr_at,
    network,
    recipe,
    schedule_of,
)
from zoo.engine.build import eval_transform, settings_at, train_transform
from zoo.engine.optim import create_optimizer
from zoo.published.tables import published, table


def test_there_is_one_recipe_per_published_row():
    families = (REPVGG_120, REPVGG_200, BASELINES, QAREPVGG, CIFAR, REPGHOST, MOBILEONE, OREPA)
    assert list(map(len, families)) == [9, 3, 4, 2, 12, 8, 5, 7]
    rest = set(RECIPES) - set().union(*families, ACNET, TABLE2)
    assert rest == {"quickstart", "repvgg_d2se", "repvggplus_l2pse"}


@pytest.mark.parametrize("name", RECIPES)
def test_the_network_is_registered_and_the_batch_is_the_papers(name):
    config = recipe(name)
    assert config.model.model in zoo.list_models()
    if name != "quickstart":
        gpus = 4 if name in OREPA else 1 if name in CIFAR else 8  # of the papers
        assert config.data.batch_size * gpus == config.optim.lr_base_size


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


@pytest.mark.parametrize("name", BASELINES)
def test_repvggs_baselines_decay_kernels_only(name):
    sizes = {parameter: p.ndim for parameter, p in network(recipe(name).model.model).named_parameters()}
    for parameter, found in groups(name).items():
        assert found == (1e-4 if sizes[parameter] > 1 else 0.0, 2.0 if parameter.endswith("bias") else 1.0), parameter


@pytest.mark.parametrize("name", CIFAR)
def test_cifars_recipes_are_the_settings_of_acnets_code(name):
    """do_acnet.py has rate, decay, epochs and initial scale of each network there; everything decays."""
    config = recipe(name)
    lr, decay, epochs = (0.2, 1e-4, 400) if "resnet56" in name else (0.1, 1e-4, 400)
    decay, epochs = 5e-4 if "wrn" in name else decay, 150 if "quick" in name else epochs
    assert set(groups(name).values()) <= {(decay, 1.0), (decay, 2.0)}
    assert all((scale == 2) == parameter.endswith("bias") for parameter, (_, scale) in groups(name).items())
    assert config.schedule.epochs == epochs
    assert (lr_at(name, 0, 390), lr_at(name, epochs * 195, 390)) == pytest.approx((lr, lr / 2))  # 390 steps an epoch
    assert config.model.model_kwargs == ({"init_gamma": 0.333} if name.startswith("acnet") else {})
    assert config.data.dataset == ("torch/cifar100" if name.endswith("cifar100") else "torch/cifar10")
    data, augment = settings_at(config, 0)
    train, test = train_transform(data, augment, network(name)), eval_transform(data, network(name))
    assert (train.img_size, train.crop_padding, train.scale, train.ratio, train.hflip) == (32, 4, [1, 1], [1, 1], 0.5)
    assert (test.img_size, test.crop_pct, train.mean, train.std) == (32, 1.0, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("name", OREPA)
def test_orepa_decays_kernels_and_their_scales_and_what_has_no_bn_in_its_official_name(name):
    for parameter, found in groups(name).items():
        norm = ".bn" in parameter or parameter.startswith("bn") or ".downsample.1." in parameter
        identity = parameter.endswith(".identity.bn.weight")  # rbr_identity.weight there
        decay = 0.0 if parameter.endswith("bias") or (norm and not identity) else 1e-4
        assert found == (decay, 2.0 if parameter.endswith("bias") else 1.0), parameter
    scales = [parameter for parameter in groups(name) if parameter.endswith(".scale")]
    assert len(scales) > 18


@pytest.mark.parametrize("name", [*ACNET, *TABLE2])
def test_acnet_and_dbb_decay_everything_but_the_depthwise_layers(name):
    found = groups(name)
    depthwise = {parameter for parameter in found if re.search(r"^blocks.*\.(conv_dw|bn1)\.", parameter)}
    layers = {re.sub(r"\.(conv_dw|bn1)\..*", "", parameter) for parameter in depthwise}
    assert len(layers) == (13 if "mobilenet" in name else 0)
    for parameter, (decay, scale) in found.items():
        assert decay == (0.0 if parameter in depthwise else 1e-4), parameter
        assert scale == (2.0 if parameter.endswith("bias") else 1.0), parameter


@pytest.mark.parametrize("name", [*REPGHOST, *MOBILEONE])
def test_repghost_and_mobileone_decay_kernels_only(name):
    sizes = {parameter: p.ndim for parameter, p in network(recipe(name).model.model).named_parameters()}
    decay = 1e-5 if name in REPGHOST else 1e-4
    assert groups(name) == {parameter: (decay if n > 1 else 0.0, 1.0) for parameter, n in sizes.items()}


@pytest.mark.parametrize("name", QAREPVGG)
def test_qarepvgg_trains_as_the_log_of_its_authors_says(name):
    """B0_log.txt has the mean rate of each epoch; `train.py` there: who decays, and that biases learn faster."""
    steps = IMAGENET // 1024
    for epoch, mean in ((0, 0.39997713), (1, 0.39984005), (118, 1.6242265e-4), (119, 2.3700143e-5)):
        rates = [lr_at(name, epoch * steps + step, steps) for step in range(0, steps, 50)]
        assert sum(rates) / len(rates) == pytest.approx(mean, rel=0.05)
    for parameter, (decay, scale) in groups(name).items():
        assert decay == (0.0 if parameter.endswith("bias") or ".bn." in parameter else 4e-5), parameter
        assert scale == (2.0 if parameter.endswith("bias") else 1.0), parameter


@pytest.mark.parametrize("name", [*REPVGG_120, *BASELINES, *TABLE2, *ACNET, *OREPA])
def test_plain_cosine_over_all_steps(name):
    steps = IMAGENET // 256
    epochs = 100 if name in ACNET else 120
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


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("quickstart", *CIFAR)])
def test_training_images_are_cut_as_in_the_paper(name):
    config = recipe(name)
    data, augment = settings_at(config, 299)
    transform = train_transform(data, augment, network(config.model.model))
    assert transform.img_size == (256 if name == "repvggplus_l2pse" else 224)
    assert (transform.scale, transform.hflip, transform.vflip) == ([0.08, 1.0], 0.5, 0.0)
    assert transform.train_interpolation == ("random" if name in REPGHOST else "bilinear")
    resnet = name in TABLE2 and "resnet" in name  # strong_train_preprocess of the authors' utils.py
    jitter = [0.4, 0.0, 0.4, 0.4] if resnet else [0.4] if name in REPGHOST else []
    assert transform.color_jitter == jitter
    assert transform.lighting == (0.1 if resnet else 0.0)
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
    assert recipe(name).hardware.broadcast_buffers is (name not in (*ACNET, *TABLE2, *CIFAR, "repvggplus_l2pse"))
    assert not recipe(name).hardware.sync_bn


@pytest.mark.parametrize("name", RECIPES)
def test_precision_is_the_authors_or_said_in_the_header(name):
    """Float32 but for RepGhost and QARepVGG (float16, said in the header), MobileOne (never published) and our own."""
    half = name in (*REPGHOST, *QAREPVGG)
    assert recipe(name).hardware.amp_dtype == ("auto" if half or name in (*MOBILEONE, "quickstart") else "float32")
    open_questions = "momentum, precision." in header(name)
    assert ("--amp-dtype float16" in header(name), open_questions) == (half, name in MOBILEONE)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("quickstart", *CIFAR)])
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
    said = {"quickstart": "measured by us, not published", "repvggplus_l2pse": "84.06 % at 320 pixels"}
    said |= dict.fromkeys(("acnet_resnet34", "acnet_resnet50"), "top-1: not published")
    said |= {"acnet_resnet18": "about 71.2 %", "resnet18_100ep": "about 70.6 %"}
    said |= {"acnet_densenet121": "not confirmed in a source", "repvgg_d2se": "83.55 % at 320 pixels, 81.82 % at 224"}
    said |= {name: f"{published(name).top1} %" for name in QAREPVGG}
    tables = {"repvgg_table4": [*REPVGG_120, *BASELINES], "repvgg_table5": REPVGG_200, "orepa_table4": OREPA}
    tables |= {"repghost": REPGHOST, "mobileone": MOBILEONE}
    for title, names in tables.items():
        rows = {(row.model or "").removeprefix("timm/"): row for row in table(title).rows}
        found = {name: rows[recipe(name).model.model] for name in names}
        number = f"Table {title[-1]}, " if "table" in title else ""
        said |= {name: f"{number}row {row.name} Published top-1: {row.values['top1']} %" for name, row in found.items()}
    rows = {row.model: row for row in table("dbb_table2").rows}
    said |= {name: f"{rows[row].values[column]} %" for name, (column, row) in TABLE2.items()}
    for title in ("dbb_table2", "acnet_cifar10"):  # of VGG-16 with ACB and without both, ACNet's own first
        for column in table(title).columns:
            for row in reversed(table(title).rows):
                if (name := f"{column.prefix}{row.model}") in CIFAR:
                    said[name] = f"{row.values[column.key]} %"
    return said


@pytest.mark.parametrize("name", RECIPES)
def test_the_header_names_command_hardware_and_the_published_figure_of_the_table(name):
    said = header(name)
    assert f"--config {'configs/quickstart.yaml' if name == 'quickstart' else name}" in said
    assert "Hardware" in said or name == "quickstart"
    figure, said = (re.sub(r"(\.\d)0 %", r"\1 %", text) for text in (figures()[name], said))
    assert figure in said
