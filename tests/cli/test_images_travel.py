"""A network trained at its own size on a folder: whoever opens a file of it gets size, crop and class names."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
import zoo.data.calibration
from zoo.cli.main import main

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen")
CUT = {"input_size": (3, 24, 24), "crop_pct": 0.75, "interpolation": "bicubic", "num_classes": 8, "class_names": NAMES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("animals")
    random = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for name in NAMES:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = random.integers(0, 255, (40, 40, 3), np.uint8)
                Image.fromarray(image).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def run(folder) -> Path:
    """The folder of a training that was told of size, crop and interpolation."""
    flags = "--model repvgg_tiny --img-size 24 --crop-pct 0.75 --interpolation bicubic --epochs 1 --batch-size 8"
    where = ["--data-dir", str(folder), "--output", str(folder / "run"), "--workers", "0", "--warmup-epochs", "0"]
    assert main([*flags.split(), *where], command="train") == 0
    return folder / "run"


def said(network) -> dict:
    return {key: network.pretrained_cfg[key] for key in CUT}


@pytest.mark.parametrize("name", ["last.pt", "deployed.safetensors"])
def test_a_loaded_network_says_what_it_was_trained_with(run, name):
    network = zoo.create_model("repvgg_tiny", checkpoint=run / name)
    assert said(network) == CUT and network.num_classes == 8
    finetuned = zoo.create_model("repvgg_tiny", checkpoint=run / name, num_classes=5)
    assert "class_names" not in finetuned.pretrained_cfg and finetuned.pretrained_cfg["num_classes"] == 5
    assert finetuned.pretrained_cfg["input_size"] == (3, 24, 24)


def test_validation_cuts_images_as_the_training_did(run, folder, capsys):
    assert (
        main(["validate", "--checkpoint", str(run / "last.pt"), "--data-dir", str(folder), "--workers=0", "--json"])
        == 0
    )
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"][0]
    state = zoo.read_checkpoint(run / "last.pt")
    assert scores["loss"] == pytest.approx(float((run / "summary.csv").read_text().splitlines()[1].split(",")[4]), 1e-5)
    assert state.images["input_size"] == (3, 24, 24)


def test_files_made_from_it_take_its_size_its_crop_and_its_names(run, folder, monkeypatch, tmp_path):
    import onnx

    cuts = []
    transform = zoo.data.calibration.EvalTransform
    monkeypatch.setattr(zoo.data.calibration, "EvalTransform", lambda **cut: cuts.append(cut) or transform(**cut))
    source, exported, expanded = str(run / "last.pt"), tmp_path / "x.onnx", tmp_path / "x.safetensors"
    assert main(["export", source, "--output", str(exported)]) == 0
    graph = onnx.load(exported)
    about = json.loads(next(entry.value for entry in graph.metadata_props if entry.key == "zoo"))
    assert [dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 24, 24]
    assert about["input_size"] == [3, 24, 24] and about["class_names"] == list(NAMES) and about["crop_pct"] == 0.75

    deployed = str(run / "deployed.safetensors")
    flags = ["--block", "acb", "-o", str(expanded), "--data-dir", str(folder)]
    assert main(["expand", deployed, *flags]) == 0
    assert (cuts[0]["img_size"], cuts[0]["crop_pct"], cuts[0]["interpolation"]) == (24, 0.75, "bicubic")
    assert said(zoo.create_model("repvgg_tiny", checkpoint=expanded)) == CUT


def test_a_test_size_of_its_own_is_kept_for_testing(folder, tmp_path):
    flags = "--model repvgg_tiny --img-size 16 --eval-img-size 24 --epochs 1 --batch-size 8 --warmup-epochs 0"
    where = ["--data-dir", str(folder), "--output", str(tmp_path), "--workers", "0"]
    assert main([*flags.split(), *where], command="train") == 0
    trained = zoo.create_model("repvgg_tiny", checkpoint=tmp_path / "last.pt").pretrained_cfg
    assert (trained["input_size"], trained["test_input_size"]) == ((3, 16, 16), (3, 24, 24))
    deployed = zoo.create_model("repvgg_tiny", checkpoint=tmp_path / "deployed.safetensors").pretrained_cfg
    assert deployed["input_size"] == (3, 24, 24) and "test_input_size" not in deployed
