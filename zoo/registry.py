"""The registry: name → builder, `create_model`, and the bridge into timm's registry.

Names are the papers' own, dots included: `repghostnet_1.0x`. In timm each network is `zoo_` and its name with
dots as underscores, so that no name of timm's is ever taken: `timm.create_model("zoo_repghostnet_1_0x")`.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs
from timm.models._builder import pretrained_cfg_for_features
from timm.models._features import FeatureGetterNet, feature_take_indices
from torch import nn

from zoo.checkpoints import Checkpoint, fetch_pretrained, load_checkpoint, read_checkpoint
from zoo.reparam.convert import convert
from zoo.reparam.deploy import deploy as deploy_network
from zoo.reparam.first_conv import declare_first_conv

Builder = Callable[..., nn.Module]


@dataclass(frozen=True)
class ModelEntry:
    """A registered network.

    Attributes:
        name: The registry name.
        family: What `list` groups by, e.g. RepVGG.
        builder: keyword arguments (num_classes, in_chans, …) → the network in training structure.
        cfg: timm's `pretrained_cfg`: input_size, mean, std, crop_pct, interpolation, first_conv, classifier.
    """

    name: str
    family: str
    builder: Builder
    cfg: dict[str, Any]

    @property
    def timm_name(self) -> str:
        return "zoo_" + self.name.replace(".", "_")


_ENTRIES: dict[str, ModelEntry] = {}
# What timm's registry reads from the module of an entry point.
default_cfgs: dict[str, Any] = {}
__all__ = ["ModelEntry", "UnknownModelError", "create_model", "list_models", "model_entry", "register_model"]


class UnknownModelError(ValueError):
    """No network of that name; says which are near."""


def register_model(builder: Builder | None = None, *, name: str | None = None, family: str = "user", **cfg: Any) -> Any:
    """Register a builder under its own name or `name`; also as a decorator, bare or with arguments.

        @zoo.register_model
        def mynet(num_classes=1000, in_chans=3, **kwargs): ...

    Args:
        builder: Keyword arguments → network in training structure.
        name: The registry name, if not the builder's own.
        family: For listings.
        cfg: Entries of timm's `pretrained_cfg` that differ from ImageNet's at 224 pixels.

    Raises:
        ValueError: The name is taken, or given in the builder's place.
    """
    if builder is None:
        return lambda function: register_model(function, name=name, family=family, **cfg)
    if not callable(builder):
        raise ValueError(f"register_model takes a builder, not {builder!r}: write @zoo.register_model(name=...)")
    name = name or builder.__name__
    if name in _ENTRIES:
        raise ValueError(f"a model named {name!r} is registered already")
    full_cfg = {
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "num_classes": 1000,
        "first_conv": None,
        "classifier": None,
        **cfg,
    }
    _ENTRIES[name] = entry = ModelEntry(name, family, builder, full_cfg)
    _register_in_timm(entry)
    return builder


def list_models(pattern: str = "*") -> list[str]:
    """Registered names that match a shell pattern, sorted.

    >>> zoo.list_models("repvgg_b?g4")
    ['repvgg_b1g4', 'repvgg_b2g4', 'repvgg_b3g4']
    """
    return sorted(fnmatch.filter(_ENTRIES, pattern))


def model_entry(name: str) -> ModelEntry:
    """The entry of a name; timm's spelling of ours (`zoo_repghostnet_1_0x`) is understood too.

    Raises:
        UnknownModelError: No such network; the message lists near names.
    """
    for entry in _ENTRIES.values():
        if name in (entry.name, entry.timm_name):
            return entry
    near = difflib.get_close_matches(name, _ENTRIES, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "`zoo list` shows all names"
    raise UnknownModelError(f"unknown model {name!r}: {hint}")


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    checkpoint: str | Path | Checkpoint | None = None,
    deploy: bool = False,
    block: str | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Create a network.

    >>> model = zoo.create_model("repghostnet_1.0x", num_classes=10)
    >>> model = zoo.create_model("repvgg_a0", checkpoint="RepVGG-A0-train.pth", deploy=True)

    Args:
        name: A registered name (`zoo list`), or `timm/NAME` or `torchvision/NAME`.
        pretrained: Fetch published weights; of another library's network, that library's.
        checkpoint: A file in any layout we know: ours, the official repositories', timm's; of either structure,
            which is recognised. A deployed checkpoint gives a deployed network. Also what `read_checkpoint` returns.
            The number of classes is the file's, unless `num_classes` asks for another: then the classifier is fresh.
        deploy: Return the deployed structure, in eval mode. With a checkpoint's or published weights it is proven
            equal; of random ones the proof is skipped (`zoo.deploy` makes it).
        block: Build with this branch set instead of the network's own; a network that has none is converted
            (see `zoo.convert`).
        features_only: Return the feature maps at `out_indices` (a number: the last so many; default: all taps)
            instead of logits.
        kwargs: To the builder: num_classes, in_chans, drop_rate, device, dtype, output_stride, …

    Raises:
        UnknownModelError: No such name.
        CheckpointError: The file is missing, unreadable or of another network; says which keys differ.
        ValueError: `pretrained` and `checkpoint` both; an unknown block or one that fits nowhere; `features_only` of a
            network without feature taps, or at taps it has not; what else the builder refuses.
        EquivalenceError: A deployed network did not prove equal.
    """
    if pretrained and checkpoint is not None:
        raise ValueError("pass pretrained=True or checkpoint=PATH, not both")
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    foreign = "/" in name
    if pretrained and foreign:
        kwargs |= {"pretrained": True} if name.startswith("timm/") else {"weights": "DEFAULT"}
    source = fetch_pretrained(name) if pretrained and not foreign else checkpoint
    if source is not None:
        model = _load(name, source, block, **kwargs)
    else:
        model = _build(name, block, **kwargs)
    if deploy:
        model = deploy_network(model.eval(), verify=pretrained or source is not None)
    return _features(model, out_indices) if features_only else model


def _load(name: str, source: str | Path | Checkpoint, block: str | None, **kwargs: Any) -> nn.Module:
    """A network with a checkpoint's weights.

    Ours is built on the meta device, so that nothing is initialised only to be overwritten, and takes its number of
    classes and its own arguments from the file. Other libraries' networks are built as asked.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    if "/" in name:
        model = _build(name, block, **kwargs)
        return load_checkpoint(model, checkpoint, num_classes=kwargs.get("num_classes"), name=name)
    if checkpoint.model in (name, model_entry(name).name):
        kwargs = {**checkpoint.metadata.get("model_kwargs", {}), **kwargs}
        block = block or checkpoint.metadata.get("block")
    num_classes, device = kwargs.pop("num_classes", None), kwargs.pop("device", None)
    with torch.device("meta"):
        model = _build(name, block, **kwargs)
    others = [(other, functools.partial(_build, other)) for other in _ENTRIES if other != name]
    return load_checkpoint(model, checkpoint, num_classes=num_classes, name=name, candidates=others).to(device)


def _build(name: str, block: str | None = None, **kwargs: Any) -> nn.Module:
    """A freshly initialised network of ours, of timm (`timm/NAME`) or of torchvision (`torchvision/NAME`)."""
    model: Any
    library, _, foreign = name.partition("/")
    if library == "timm" and foreign:
        model = timm.create_model(foreign, **kwargs)
    elif library == "torchvision" and foreign:
        model = torchvision.models.get_model(foreign, **{"weights": None, **kwargs})
    else:
        entry = model_entry(name)
        if block and "block" in inspect.signature(entry.builder).parameters:
            kwargs, block = {**kwargs, "block": block}, None
        model: Any = entry.builder(**kwargs)
        channels, *size = entry.cfg["input_size"]
        cfg = {"architecture": entry.timm_name, "input_size": (kwargs.get("in_chans", channels), *size)}
        model.pretrained_cfg = model.default_cfg = {**entry.cfg, **cfg}
        declare_first_conv(model)
    return convert(model, block) if block else model


def _features(model: Any, out_indices: int | Sequence[int] | None) -> nn.Module:
    """The network cut to its feature maps, in the manner of timm's `features_only`."""
    if not hasattr(model, "forward_intermediates"):
        raise ValueError(f"features_only: {type(model).__name__} has no feature taps")
    cfg = getattr(model, "pretrained_cfg", {})
    try:
        wanted = list(out_indices) if isinstance(out_indices, Sequence) else out_indices
        taps, _ = feature_take_indices(len(model.feature_info), wanted)
    except AssertionError as error:
        raise ValueError(f"out_indices={out_indices}: {error}") from error
    features: Any = FeatureGetterNet(model, out_indices=tuple(taps))
    features.pretrained_cfg = features.default_cfg = pretrained_cfg_for_features(cfg)
    return features


def _register_in_timm(entry: ModelEntry) -> None:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create_for_timm(entry.name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = entry.timm_name
    entrypoint.__module__ = __name__
    default_cfgs.update(generate_default_cfgs({entry.timm_name: entry.cfg}))
    timm.models.register_model(entrypoint)
    if "." in entry.name:
        _accept_dot_in_timm(entry.name.partition(".")[0])


def _create_for_timm(
    name: str,
    pretrained: bool = False,
    *,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
    feature_cls: Any = None,
    **kwargs: Any,
) -> nn.Module:
    """`create_model` without what timm passes to all; `feature_cls` only chooses between wrappers of equal output."""
    return create_model(name, pretrained, **kwargs)


def _accept_dot_in_timm(architecture: str) -> None:
    """Let `timm.create_model("repghostnet_1.0x")` work, where timm takes `0x` for the tag of pretrained weights.

    An entry point `repghostnet_1`, which timm does not list, puts name and tag together again. Nothing of timm's is
    replaced; should its private tables go, only this spelling is lost.
    """
    tables = vars(timm.models._registry)
    entrypoints, unlisted = tables.get("_model_entrypoints"), tables.get("_deprecated_models")
    if entrypoints is None or unlisted is None or architecture in entrypoints:
        return

    def entrypoint(pretrained: bool = False, pretrained_cfg: Any = None, **kwargs: Any) -> nn.Module:
        return _create_for_timm(f"{architecture}.{pretrained_cfg or ''}", pretrained, **kwargs)

    entrypoints[architecture] = entrypoint
    unlisted[architecture] = None
