"""ACNet's own repository (DingXiaoH/ACNet, 748fb0c) has names of its own: all are read, with the official logits.

`reference/acnet_layouts.json.gz` and `acnet.npz` are of its code, with the weights of `reference.fill` (gain 1.4) on
`reference.images` (32 pixels of them for CIFAR's networks); the argument `use_last_bn` that its block no longer takes
was dropped, its 7×7 pooling averages all.
"""

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from tests.support import reference
from zoo.checkpoints import Checkpoint
from zoo.checkpoints.recognise import recognise

CIFAR = {"cfqkbnc": "cifar_quick", "vc": "vgg16_cifar10", "src56": "resnet56", "wrnc16plain": "wrn_16_8"}
OURS = {"sres18": "resnet18", "sres50": "resnet50", "smi1": "mobilenet_v1", **CIFAR}
STRUCTURES = {"base": "train", "acb": "train", "deploy": "blocks deployed"}
NAMES = [f"{network}.{kind}" for network in OURS for kind in STRUCTURES if (network, kind) != ("smi1", "base")]
WITH_LOGITS = [f"{network}.{kind}" for network in ("sres18", "smi1", "cfqkbnc") for kind in ("acb", "deploy")]
WITH_LOGITS += ["cfqkbnc.base", "vc.acb", "src56.acb", "wrnc16plain.base", "wrnc16plain.deploy"]


@cache
def layouts():
    return json.loads(gzip.decompress((reference.FOLDER / "acnet_layouts.json.gz").read_bytes()))


def registered(name):
    network, kind = name.split(".")
    return ("" if kind == "base" else "acnet_") + OURS[network]


@pytest.mark.parametrize("name", NAMES)
def test_the_names_are_known_with_structure_and_sizes(name):
    with torch.device("meta"):
        ours = zoo.create_model(registered(name))
        state = {key: torch.empty(shape) for key, shape in layouts()[name].items()}
    match = recognise(ours, Checkpoint(Path(name), state))
    network, kind = name.split(".")
    whole = kind == "deploy" and network in ("cfqkbnc", "vc")  # they have no BatchNorm outside a block
    assert match.fits and match.layout.name == "official"
    assert match.structure == ("deployed" if whole else STRUCTURES[kind])
    own = match.network.state_dict()
    assert all(own[native].shape == state[theirs].shape for theirs, native in match.names.items())


@pytest.mark.parametrize("name", WITH_LOGITS)
def test_the_weights_give_the_official_logits(name):
    state = {key: reference.fill(key, tuple(shape), 1.4) for key, shape in layouts()[name].items()}
    network = zoo.create_model(registered(name), checkpoint=Checkpoint(Path(name), state), dtype=torch.float64).eval()
    assert zoo.is_deployed(network) == (name.endswith("deploy") or name == "wrnc16plain.base")  # that has no blocks
    side = network.pretrained_cfg["input_size"][-1]
    with torch.no_grad():
        found = network(reference.images()[..., :side, :side].double())
    wanted = torch.from_numpy(np.load(reference.FOLDER / "acnet.npz")[name]).double()
    assert reference.relative_error(found, wanted) <= 1e-6  # stored in float32
