"""pytest plugin: timm's own model tests, run over zoo's networks.

timm's tests are in its sdist only. With its `tests/test_models.py` unpacked into a folder of its own:

    python -m pytest -p tests.support.timm_suite -c /dev/null --rootdir FOLDER FOLDER/test_models.py

Environment:
    ZOO_STRUCTURE: train (default) or deployed; what `timm.create_model` returns.
    ZOO_MODELS: shell patterns on zoo's names, separated by commas; by default one small network of each
        family, "*" is all of them.
"""

import copy
import fnmatch
import functools
import os
from typing import Any

import pytest
import timm
import torch
from torch import nn

import zoo
from zoo.registry import model_entry

SMALL = (
    "repvgg_a0,qarepvgg_a0,acnet_resnet18,acnet_cifar_quick,dbb_mobilenet_v1,orepa_resnet18,orepa_repvgg_a0,"
    "repghostnet_0.5x,mobileone_s0,yolov7,yolov7_backbone*"
)
PATTERNS = (os.environ.get("ZOO_MODELS") or SMALL).split(",")
NAMES = {
    model_entry(name).timm_name
    for name in zoo.list_models()
    if any(fnmatch.fnmatch(name, pattern) for pattern in PATTERNS)
}
# timm's markers; its timeouts need a plugin of their own, which the suite does without.
MARKERS = ("base", "cfg", "cfg_nonstd", "features", "forward", "backward", "torchscript", "timeout(seconds)")
FX_MARKERS = ("fxforward", "fxbackward")

DEPLOY = {"deploy": True} if os.environ.get("ZOO_STRUCTURE", "train") == "deployed" else {}

timms_list_models, timms_create_model = timm.list_models, timm.create_model
BUILT: dict[tuple[str, str], nn.Module] = {}
"""Name and arguments → what was built of the network whose tests run now."""


@functools.wraps(timms_list_models)
def list_models(filter="", module="", pretrained=False, **options):
    """Ours among what timm lists. Its own `module` lists name its own files, so they cannot select ours."""
    if pretrained:
        return []  # nothing is downloaded
    return [name for name in timms_list_models(filter, **options) if name.split(".")[0] in NAMES]


@functools.wraps(timms_create_model)
def create_model(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """A copy of what was built of these arguments: building and deploying takes longer than most of the tests."""
    elsewhere = torch.get_default_device(), timm.layers.is_scriptable()
    key = name, repr((pretrained, sorted(options.items()), elsewhere))
    if key not in BUILT:
        for other in [other for other in BUILT if other[0] != name]:
            del BUILT[other]
        BUILT[key] = timms_create_model(name, pretrained, **options, **DEPLOY)
    return copy.deepcopy(BUILT[key])


# The tests import these names from timm when they are collected, which is after this.
timm.list_models = list_models
timm.list_pretrained = lambda *filters, **options: []
timm.create_model = create_model


def pytest_configure(config: pytest.Config) -> None:
    for marker in (*MARKERS, *FX_MARKERS):
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of our networks, one network after the other; the others are about single networks of timm."""

    def is_ours(item: pytest.Item) -> bool:
        return isinstance(item, pytest.Function) and _model_name(item) in NAMES

    config.hook.pytest_deselected(items=[item for item in items if not is_ours(item)])
    items[:] = sorted(filter(is_ours, items), key=_model_name)


def _model_name(item: pytest.Function) -> str:
    callspec = getattr(item, "callspec", None)  # absent where a test is not parametrised
    return "" if callspec is None else str(callspec.params.get("model_name", "")).split(".")[0]
