"""Parameter groups and schedules: which parameter learns how fast and decays how much, over time."""

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import timm.optim
import timm.scheduler
import torch
from timm.optim import param_groups_layer_decay
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from zoo.engine.config import OptimConfig, ScheduleConfig
from zoo.nearest import did_you_mean

TIMMS_SETTINGS = ("warmup_epochs", "warmup_lr", "min_lr", "decay_epochs", "decay_rate", "decay_milestones")
"""Settings of a schedule that timm's have too."""
NORMALISATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


def names_of(selector: str, model: nn.Module, key: str) -> set[str]:
    """Names of the parameters that `bias`, `norm`, `1d` or a shell pattern over the name selects.

    Raises: ValueError, naming the setting `key`, if a pattern fits none: a slip of the pen would train silently wrong.
    """
    if selector == "norm":
        layers = [(path, module) for path, module in model.named_modules() if isinstance(module, NORMALISATIONS)]
        return {name for path, module in layers for name, _ in module.named_parameters(path, recurse=False)}
    parameters = dict(model.named_parameters())
    if selector == "bias":
        return {name for name in parameters if name.endswith("bias")}
    if selector == "1d":
        return {name for name, parameter in parameters.items() if parameter.ndim <= 1}
    found = {name for name in parameters if fnmatchcase(name, selector)}
    if not found:
        raise ValueError(f"{key}: no parameter of the network matches {selector!r}")
    return found


def selected(selectors: Iterable[str], model: nn.Module, key: str) -> set[str]:
    """Names of what a list of selectors picks: the last one that matches decides, `!selector` decides against."""
    picked: set[str] = set()
    for selector in selectors:
        names = names_of(selector.removeprefix("!"), model, key)
        picked = picked - names if selector.startswith("!") else picked | names
    return picked


def freeze(model: nn.Module, selectors: list[str]) -> int:
    """Stop training the selected parameters; the number of them."""
    frozen = selected(selectors, model, "freeze")
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return len(frozen)


def param_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """One group per (weight decay, learning rate multiple): `params`, `names`, `weight_decay`, `lr_scale`.

    A parameter the network lists in `no_weight_decay()` does not decay either.
    """
    if unfit := [pick for pick, scale in config.lr_scale.items() if scale <= 0]:
        raise ValueError(f"lr_scale: the multiple of {unfit[0]!r} must be above 0 (--freeze stops parameters)")
    no_weight_decay: Any = getattr(model, "no_weight_decay", set)  # optional in timm's protocol
    exempt = set(no_weight_decay()) | selected(config.no_decay, model, "no_decay")
    scaled = [(names_of(pick, model, "lr_scale"), scale) for pick, scale in config.lr_scale.items()]
    depth = _layer_scales(model, config.layer_decay)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        decay = 0.0 if name in exempt else config.weight_decay
        scale = depth.get(name, 1.0) * math.prod(scale for names, scale in scaled if name in names)
        group = {"params": [], "names": [], "weight_decay": decay, "lr_scale": scale}
        group = groups.setdefault((decay, scale), group)
        group["params"].append(param)
        group["names"].append(name)
    if not groups:
        raise ValueError("freeze: no parameter is left to train")
    return list(groups.values())


def _layer_scales(model: nn.Module, layer_decay: float | None) -> dict[str, float]:
    if layer_decay is None:
        return {}
    names = {id(param): name for name, param in model.named_parameters()}
    groups: list[Any] = param_groups_layer_decay(model, layer_decay=layer_decay)
    return {names[id(param)]: group["lr_scale"] for group in groups for param in group["params"]}


def create_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """timm's optimiser of that name over `param_groups`.

    Raises: ValueError if timm does not know the name.
    """
    groups = [{k: v for k, v in group.items() if k != "names"} for group in param_groups(model, config)]
    known = [str(name) for name in timm.optim.list_optimizers()]
    if config.opt.lower() not in known:
        near = did_you_mean(config.opt, known, "there are sgd, adamw, …", n=5)
        raise ValueError(f"opt: timm has no optimiser {config.opt!r}; {near}")
    return timm.optim.create_optimizer_v2(
        groups, opt=config.opt, lr=config.lr, weight_decay=config.weight_decay, momentum=config.momentum
    )


class Schedule:
    """Learning rate (timm's scheduler) and weight decay as functions of the step: nothing of it needs saving.

    `set(step)` prepares the optimiser for the step of that number, counted from 0 over the whole run.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        optim: OptimConfig,
        config: ScheduleConfig,
        steps_per_epoch: int,
    ) -> None:
        self.optimizer, self.steps_per_epoch = optimizer, steps_per_epoch
        self.total_steps = config.epochs * steps_per_epoch
        self.decay_end = optim.weight_decay_end
        self.base_decay: list[float] = [group["weight_decay"] for group in optimizer.param_groups]
        kwargs: dict[str, Any] = {name: getattr(config, name) for name in TIMMS_SETTINGS}
        scheduler, _ = timm.scheduler.create_scheduler_v2(
            optimizer,
            "constant" if config.sched == "none" else config.sched,
            num_epochs=config.epochs,
            step_on_epochs=not config.sched_on_updates,
            updates_per_epoch=steps_per_epoch,
            **kwargs,
        )
        assert isinstance(scheduler, Scheduler)
        self.scheduler = scheduler

    def set(self, step: int) -> None:
        self.scheduler.step(step // self.steps_per_epoch)
        self.scheduler.step_update(step)
        if self.decay_end is None:
            return
        fraction = (1 + math.cos(math.pi * step / self.total_steps)) / 2
        for group, base in zip(self.optimizer.param_groups, self.base_decay, strict=True):
            group["weight_decay"] = self.decay_end + (base - self.decay_end) * fraction if base else 0.0

    def lr(self) -> float:
        """The learning rate in force, of a group without multiple."""
        group = self.optimizer.param_groups[0]
        return group["lr"] / group["lr_scale"]
