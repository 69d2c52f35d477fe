"""YOLOv7's official weights: their layout is read and written, and the feature maps are the official ones.

`reference/yolov7.npz` was made by the official code (WongKinYiu/yolov7, a207844) in float64 with the weights of
`reference.fill`: of each map 256 entries at random places, their sum and the sum of their magnitudes.
`yolov7_layouts.json.gz` holds the names and shapes of its state dicts, the detection layer's included.
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
from zoo.checkpoints import Checkpoint, CheckpointError, in_layout
from zoo.checkpoints.load import fit

SIZES = ((64, 64), (96, 128))
DETECTION = "105."


@cache
def layouts():
    return json.loads(gzip.decompress((reference.FOLDER / "yolov7_layouts.json.gz").read_bytes()))


@cache
def official(name):
    """The weights of an official network, by its own names."""
    return {key: reference.fill(key, tuple(shape), 1.0) for key, shape in layouts()[name].items()}


def checkpoint(name):
    """The file as it is after reading, which drops `model.` before every name."""
    return Checkpoint(Path(name), {key.removeprefix("model."): value for key, value in official(name).items()})


def maps_of(network, size):
    images = torch.from_numpy(np.random.RandomState(0).standard_normal((2, 3, *size)))
    with torch.no_grad():
        return network(images)


def differences(maps, name, size, first=0):
    """Relative error of each map, in its sampled entries and its two sums."""
    stored = np.load(reference.FOLDER / "yolov7.npz")
    for index, found in enumerate(maps, first):
        wanted = stored[f"{name}.{size[0]}x{size[1]}.{index}"]
        flat = found.flatten().numpy()
        entries = flat[np.random.RandomState(index).randint(0, flat.size, 256)]
        yield np.abs(entries - wanted[:256]).max() / np.abs(wanted[:256]).max()
        yield abs(flat.sum() - wanted[256]) / wanted[257]
        yield abs(np.abs(flat).sum() - wanted[257]) / wanted[257]


@pytest.mark.parametrize("name", ["yolov7.train", pytest.param("yolov7.deploy", marks=pytest.mark.slow)])
def test_the_official_weights_give_the_official_maps_and_are_written_back_bit_for_bit(name, caplog):
    ours, structure = name.split(".")
    network = zoo.create_model(ours, checkpoint=checkpoint(name), dtype=torch.float64).eval()
    assert "left out" in caplog.text and DETECTION in caplog.text
    assert zoo.is_deployed(network) == (structure == "deploy")
    features = zoo.features.features(network, None)
    for size in SIZES:
        assert max(differences(maps_of(features, size), name, size)) <= 1e-9
    with torch.device("meta"):
        train = zoo.create_model(ours)
    written = in_layout(network, train, ours, "official")
    wanted = {key: value for key, value in official(name).items() if not key.startswith(f"model.{DETECTION}")}
    assert written.keys() == wanted.keys()
    assert all(torch.equal(written[key], wanted[key].to(written[key].dtype)) for key in wanted)


@pytest.mark.slow
def test_the_backbone_takes_its_part_of_a_detector_and_gives_the_official_maps():
    network = zoo.create_model("yolov7_backbone", checkpoint=checkpoint("yolov7.train"), dtype=torch.float64)
    taps = zoo.features.features(network.eval(), 3)
    for size in SIZES:
        assert max(differences(maps_of(taps, size), "yolov7.train", size, first=3)) <= 1e-9


@pytest.mark.parametrize("other", ["yolov7x", "yolov7_backbone_rep"])
def test_another_scale_and_other_blocks_are_refused(other):
    shapes = {key.removeprefix("model."): shape for key, shape in layouts()["yolov7.train"].items()}
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    with torch.device("meta"):
        network = zoo.create_model(other)
    with pytest.raises(CheckpointError, match=f"not a checkpoint of {other}"):
        fit(network, Checkpoint(Path("yolov7.pth"), state), other)


def test_a_classifier_is_left_out_of_the_official_layout_with_a_warning(caplog):
    with torch.device("meta"):
        network = zoo.create_model("yolov7_backbone")
    written = in_layout(network, network, "yolov7_backbone", "official")
    assert len(written) == len(network.state_dict()) - 2
    assert "no place for its classifier (head.fc.bias, head.fc.weight)" in caplog.text
