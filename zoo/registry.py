"""The registry: name → builder, `create_model`, and the bridge into timm's registry.

Names are the papers' own, dots included: `repghostnet_1.0x`. In timm each network is `zoo_` and its name with
dots as underscores, so that no name of timm's is ever taken: `timm.create_model("zoo_repghostnet_1_0x")`.
"""

import fnmatch
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from timm.models import PretrainedCfg, generate_default_cfgs
from torch import nn

from zoo.checkpoints import Checkpoint, CheckpointError, fetch_pretrained, load_checkpoint, read_checkpoint
from zoo.checkpoints.load import fit
from zoo.checkpoints.pretrained import published_on_hub
from zoo.features import features
from zoo.mishaps import first_line
from zoo.nearest import did_you_mean
from zoo.surgery.convert import convert
from zoo.surgery.declared_layers import declare_layers
from zoo.surgery.deploy import deploy as deploy_network

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
    imagenet = PretrainedCfg(pool_size=(7, 7), interpolation="bilinear").to_dict()
    _ENTRIES[name] = entry = ModelEntry(name, family, builder, {**imagenet, **cfg})
    _register_in_timm(entry)
    return builder


def list_models(
    filter: str | Sequence[str] = "*",
    module: str = "",
    pretrained: bool = False,
    exclude_filters: str | Sequence[str] = (),
) -> list[str]:
    """List the registered names, sorted; the arguments are those of `timm.list_models`.

    >>> zoo.list_models("repvgg_b?g4")
    ['repvgg_b1g4', 'repvgg_b2g4', 'repvgg_b3g4']

    Args:
        filter: A shell pattern, or several of which one must match.
        module: Only networks of this family, in any case.
        pretrained: Only networks whose published weights `pretrained=True` fetches.
        exclude_filters: Leave out what matches one of these patterns.
    """
    wanted, unwanted = ([each] if isinstance(each, str) else each for each in (filter or "*", exclude_filters))
    return sorted(
        entry.name
        for entry in _ENTRIES.values()
        if any(fnmatch.fnmatch(entry.name, pattern) for pattern in wanted)
        and not any(fnmatch.fnmatch(entry.name, pattern) for pattern in unwanted)
        and module.lower() in ("", entry.family.lower())
        and not (pretrained and published_on_hub(entry.name) is None)
    )


def model_entry(name: str) -> ModelEntry:
    """The entry of a name; timm's spelling of ours (`zoo_repghostnet_1_0x`) is understood too.

    Raises:
        UnknownModelError: No such network; the message lists near names.
    """
    for entry in _ENTRIES.values():
        if name in (entry.name, entry.timm_name):
            return entry
    raise _unknown(name, _ENTRIES)


def _unknown(name: str, known: Iterable[str]) -> UnknownModelError:
    return UnknownModelError(f"unknown model {name!r}: {did_you_mean(name, known, '`zoo list` shows all names')}")


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
    return features(model, out_indices) if features_only else model


def _load(name: str, source: str | Path | Checkpoint, block: str | None, **kwargs: Any) -> nn.Module:
    """A network with a checkpoint's weights.

    Ours is built on the meta device, so that nothing is initialised only to be overwritten, and takes its number of
    classes and its own arguments from the file. Other libraries' networks are built as asked.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    num_classes = kwargs.get("num_classes")
    with _blaming(checkpoint, name):
        if "/" in name:
            _fit_foreign(name, checkpoint, block, **kwargs)
            return load_checkpoint(_build(name, block, **kwargs), checkpoint, num_classes=num_classes, name=name)
        if checkpoint.metadata.get("model") in (name, model_entry(name).name):
            kwargs = {**checkpoint.metadata.get("model_kwargs", {}), **kwargs}
            block = block or checkpoint.metadata.get("block")
        device = kwargs.pop("device", None)
        kwargs.pop("num_classes", None)
        with torch.device("meta"):
            model = _build(name, block, **kwargs)
        others = [(other, functools.partial(_build, other)) for other in _ENTRIES if other != name]
        return load_checkpoint(model, checkpoint, num_classes=num_classes, name=name, candidates=others).to(device)


@contextmanager
def _blaming(checkpoint: Checkpoint, name: str) -> Iterator[None]:
    """Blame the file for whatever a constructor raises on the arguments that the file gives its network."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        if checkpoint.metadata.get("model") != name:
            raise
        what = f"{name} cannot be built as the file says: {first_line(error)}"
        raise CheckpointError(f"{checkpoint.path}: {what}") from error


def _fit_foreign(name: str, checkpoint: Checkpoint, block: str | None, **kwargs: Any) -> None:
    """Compare another library's network with a file before memory is taken for weights that the file has not."""
    try:
        with torch.device("meta"):
            twin = _build(name, block, **kwargs)
    except RuntimeError:  # some compute while they are built
        return
    fit(twin, checkpoint, name)


def _build(name: str, block: str | None = None, **kwargs: Any) -> nn.Module:
    """A freshly initialised network of ours, of timm (`timm/NAME`) or of torchvision (`torchvision/NAME`)."""
    model: Any
    library, _, foreign = name.partition("/")
    if library == "timm" and foreign:
        if ":" not in foreign and not timm.is_model(foreign):  # a colon is of a hub
            raise _unknown(name, (f"timm/{known}" for known in timm.list_models()))
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
        declare_layers(model)
    return convert(model, block) if block else model


def _register_in_timm(entry: ModelEntry) -> None:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create_for_timm(entry.name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = entry.timm_name
    entrypoint.__module__ = __name__
    hub = {"hf_hub_id": published_on_hub(entry.name)}  # timm lists what has it as pretrained; fetching is ours
    default_cfgs.update(generate_default_cfgs({entry.timm_name: entry.cfg | hub}))
    timm.models.register_model(entrypoint)
    if "." in entry.name:
        _accept_dot_in_timm(entry.name.partition(".")[0])


def _create_for_timm(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`create_model` without what timm passes to all; `feature_cls` only chooses between wrappers of equal output."""
    of_timm = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "feature_cls")
    return create_model(name, pretrained, **{key: value for key, value in kwargs.items() if key not in of_timm})


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


importlib.import_module("zoo.models")  # they stand above, but a registry without them would be empty
