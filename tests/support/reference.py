"""Layouts and logits of the official implementations, and the weights they were computed with.

`reference/layouts.json.gz`: "NAME.STRUCTURE" → family, source, gain, {key: shape}; `logits.npz`: under the
same names the (2, classes) logits, computed in float64, of the official network with the weights of `fill` on `images`.
A weight depends on its key, its shape and the gain alone, so none is shipped. The two structures of a name have
unrelated weights. What is filled in, from a generator seeded with the key's CRC-32 (numpy's RandomState, whose stream
is frozen): kernels and linear weights N(0, (gain / sqrt(fan in))²), BatchNorm scales U(0.4, 1), running variances
U(0.5, 1.5), all other vectors N(0, 0.1²), scalars 1.
"""

import gzip
import json
import zlib
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "reference"


@cache
def layouts() -> dict[str, dict]:
    return json.loads(gzip.decompress((FOLDER / "layouts.json.gz").read_bytes()))


@cache
def logits(name: str) -> Tensor:
    return torch.from_numpy(np.load(FOLDER / "logits.npz")[name])


def images() -> Tensor:
    return torch.from_numpy(np.random.RandomState(0).standard_normal((2, 3, 64, 64)).astype(np.float32))


@lru_cache(maxsize=1)  # read again by the test that loaded it
def state_dict(name: str) -> dict[str, Tensor]:
    entry = layouts()[name]
    return {key: fill(key, tuple(shape), entry["gain"]) for key, shape in entry["layout"].items()}


def fill(key: str, shape: tuple[int, ...], gain: float) -> Tensor:
    random = np.random.RandomState(zlib.crc32(key.encode()) % 2**31)
    if not shape:
        return torch.tensor(1)
    if len(shape) > 1:
        values = random.standard_normal(shape) * (gain / np.sqrt(np.prod(shape[1:])))
    elif key.endswith("running_var"):
        values = random.uniform(0.5, 1.5, shape)
    elif key.endswith("weight"):
        values = random.uniform(0.4, 1.0, shape)
    else:
        values = 0.1 * random.standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def registered(name: str) -> str:
    """Our name of a network of the references."""
    network = name.rsplit(".", 1)[0]
    base, _, block = network.partition("_")
    if block == "OREPA" and base.startswith("RepVGG"):
        return "orepa_" + base.lower().replace("-", "_")
    if network.startswith(("ResNet", "MobileNet")):
        prefix = {"base": "", "ACB": "acnet_", "DBB": "dbb_", "OREPA": "orepa_"}[block]
        return prefix + {"MobileNet": "mobilenet_v1"}.get(base, base.lower().replace("-", ""))
    if network.startswith("repghostnet"):
        *words, whole, part = network.split("_")
        return "_".join([*words, f"{whole}.{part}"])
    return network.lower().replace("-", "_")


def relative_error(got: Tensor, wanted: Tensor) -> float:
    return ((got - wanted).abs().max() / wanted.abs().max()).item()
