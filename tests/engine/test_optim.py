"""Which parameter gets which weight decay and learning rate, and both over time."""

import math

import pytest
import torch
from torch import nn

import zoo
from zoo.engine.config import OptimConfig, ScheduleConfig
from zoo.engine.optim import Schedule, create_optimizer, freeze, param_groups


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)


def settings(model, config):
    """Parameter name → (weight decay, learning rate multiple)."""
    groups = param_groups(model, config)
    return {name: (g["weight_decay"], g["lr_scale"]) for g in groups for name in g["names"]}


def test_each_parameter_is_in_exactly_one_group():
    model = zoo.create_model("repvgg_tiny")
    groups = param_groups(model, OptimConfig(no_decay=["bias", "norm"], lr_scale={"bias": 2}))
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert [len(g["params"]) for g in groups] == [len(g["names"]) for g in groups]


def test_selectors_pick_by_role_dimension_and_name():
    decay = 0.5
    config = OptimConfig(weight_decay=decay, no_decay=["1d"])
    assert settings(Toy(), config) == {
        "conv.weight": (decay, 1.0),
        "conv.bias": (0.0, 1.0),
        "bn.weight": (0.0, 1.0),
        "bn.bias": (0.0, 1.0),
        "fc.weight": (decay, 1.0),
        "fc.bias": (0.0, 1.0),
    }
    by_role = settings(Toy(), OptimConfig(weight_decay=decay, no_decay=["norm"], lr_scale={"bias": 2, "fc.*": 10}))
    assert by_role == {
        "conv.weight": (decay, 1.0),
        "conv.bias": (decay, 2.0),
        "bn.weight": (0.0, 1.0),
        "bn.bias": (0.0, 2.0),
        "fc.weight": (decay, 10.0),
        "fc.bias": (decay, 20.0),
    }


def test_the_last_selector_that_matches_decides():
    config = OptimConfig(weight_decay=0.5, no_decay=["norm", "!bn.weight", "*.bias"])
    found = settings(Toy(), config)
    assert found["bn.weight"] == (0.5, 1.0)
    assert found["bn.bias"] == found["fc.bias"] == (0.0, 1.0)


def test_a_pattern_that_fits_nothing_is_refused():
    with pytest.raises(ValueError, match=r"no parameter of the network matches '\*\.identity\.\*'"):
        param_groups(Toy(), OptimConfig(no_decay=["!*.identity.*"]))


def test_frozen_parameters_are_in_no_group():
    model = Toy()
    assert freeze(model, ["conv.*", "norm"]) == 4
    assert set(settings(model, OptimConfig())) == {"fc.weight", "fc.bias"}
    freeze(model, ["*"])
    with pytest.raises(ValueError, match="no parameter is left"):
        param_groups(model, OptimConfig())


def test_layer_decay_falls_from_the_head_to_the_stem():
    found = settings(zoo.create_model("repvgg_tiny"), OptimConfig(layer_decay=0.5))
    scales = {name: scale for name, (_, scale) in found.items()}
    assert scales["head.fc.weight"] == 1.0
    stem = {scale for name, scale in scales.items() if name.startswith("stem.")}
    assert len(stem) == 1 and stem.pop() == min(scales.values()) < 0.1


def test_an_unknown_optimiser_lists_near_ones():
    with pytest.raises(ValueError, match=r"no optimiser 'adamx'; did you mean .*adamw"):
        create_optimizer(Toy(), OptimConfig(opt="adamx"))


@pytest.mark.parametrize("opt, nesterov", [("sgd", True), ("momentum", False)])
def test_sgd_is_with_nesterov_momentum_and_momentum_without(opt, nesterov):
    optimizer = create_optimizer(Toy(), OptimConfig(opt=opt, momentum=0.8))
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["nesterov"] is nesterov and optimizer.defaults["momentum"] == 0.8


def rates(optim, config, steps_per_epoch, steps):
    """Learning rate of a group without multiple at the given steps."""
    schedule = Schedule(create_optimizer(Toy(), optim), optim, config, steps_per_epoch)
    found = []
    for step in steps:
        schedule.set(step)
        found.append(schedule.lr())
    return found


def test_cosine_per_step_falls_to_zero():
    found = rates(OptimConfig(lr=0.1), ScheduleConfig(epochs=10), 7, range(70))
    assert found == pytest.approx([0.05 * (1 + math.cos(math.pi * t / 70)) for t in range(70)])


def test_cosine_per_epoch_with_warmup_gives_the_rates_of_repghosts_log():
    config = ScheduleConfig(epochs=300, sched_on_updates=False, warmup_epochs=5, warmup_lr=1e-4, min_lr=1e-5)
    first, still, second, last = rates(OptimConfig(lr=0.6), config, 1251, [0, 1250, 1251, 299 * 1251])
    assert (first, still) == (1e-4, 1e-4)
    assert second == pytest.approx(0.1201, abs=5e-5)
    assert last == pytest.approx(1e-5 + 0.5 * (0.6 - 1e-5) * (1 + math.cos(math.pi * 299 / 300)))


def test_no_schedule_is_a_constant():
    assert rates(OptimConfig(lr=0.3), ScheduleConfig(epochs=4, sched="none"), 5, [0, 7, 19]) == [0.3] * 3


def test_steps_fall_by_the_rate_at_each_interval():
    config = ScheduleConfig(epochs=9, sched="step", decay_epochs=3, decay_rate=0.1)
    assert rates(OptimConfig(lr=1.0), config, 2, [0, 5, 6, 12]) == pytest.approx([1.0, 1.0, 0.1, 0.01])


def test_the_multiple_of_a_group_applies_to_the_scheduled_rate():
    config = OptimConfig(lr=0.2, lr_scale={"bias": 2})
    optimizer = create_optimizer(Toy(), config)
    schedule = Schedule(optimizer, config, ScheduleConfig(epochs=2), 10)
    for step, lr in [(0, 0.2), (10, 0.1)]:
        schedule.set(step)
        assert {g["lr_scale"]: pytest.approx(g["lr"]) for g in optimizer.param_groups} == {1.0: lr, 2.0: 2 * lr}


def test_weight_decay_is_annealed_where_there_is_some():
    config = OptimConfig(weight_decay=1e-4, weight_decay_end=1e-5)
    optimizer = create_optimizer(Toy(), config)
    schedule = Schedule(optimizer, config, ScheduleConfig(epochs=300), 10)
    for step, wanted in [(0, 1e-4), (1500, 5.5e-5), (3000, 1e-5)]:
        schedule.set(step)
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        assert decays == [pytest.approx(wanted), 0.0]
