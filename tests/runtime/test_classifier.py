"""A file of `zoo export` classifies pictures without torch, as the network that it was made from."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from tests.support.colours import colour_network, said_of_colours
from tests.support.export_networks import small_network
from tests.support.imagenet import PHOTOS
from zoo import runtime
from zoo.data import EvalTransform
from zoo.export import export_file
from zoo.export.mnn_engine import write_mnn
from zoo.export.ncnn_engine import write_ncnn
from zoo.network import declare, preprocessing

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")
PICTURES = [PHOTOS / "cat.jpg", PHOTOS / "coffee.jpg", Image.effect_noise((50, 40), 90)]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    network = small_network()
    declare(network, input_size=(3, 32, 32), crop_pct=0.8, mean=(0.4, 0.5, 0.6), class_names=NAMES)
    return network


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory) -> Path:
    """The network as ONNX and OpenVINO files, with two pictures a call and with any number."""
    folder = tmp_path_factory.mktemp("files")
    for name, format, dynamic in (
        ("any.onnx", "onnx", True),
        ("two.onnx", "onnx", False),
        ("any.xml", "openvino", True),
    ):
        export_file(network, folder / name, torch.randn(2, 3, 32, 32), format=format, dynamic_batch=dynamic)
    return folder


@pytest.mark.parametrize("name", ["any.onnx", "two.onnx", "any.xml"])
@torch.no_grad()
def test_it_answers_as_the_network_does_on_timms_transform(network, folder, name):
    said = preprocessing(network)
    cut = EvalTransform(img_size=32, crop_pct=said["crop_pct"], interpolation=said["interpolation"]).build()
    mean, std = (torch.tensor(said[key])[:, None, None] for key in ("mean", "std"))
    images = [(cut(runtime.open_picture(picture)) / 255 - mean) / std for picture in PICTURES]
    wanted = network(torch.stack(images)).softmax(1).numpy()

    classifier = runtime.load(folder / name)
    np.testing.assert_allclose(classifier.predict(PICTURES), wanted, rtol=1e-3, atol=1e-5)
    best = classifier.top(classifier.predict(PICTURES[:1])[0], 3)
    assert [one.name for one in best] == [NAMES[i] for i in wanted[0].argsort()[::-1][:3]]
    assert [one.probability for one in best] == sorted((one.probability for one in best), reverse=True)
    assert len(classifier.top(wanted[0], 100)) == len(NAMES)


@pytest.mark.parametrize("suffix, engine", [(".onnx", "onnxruntime"), (".xml", "openvino")])
def test_a_product_needs_numpy_pillow_and_the_engine(folder, suffix, engine):
    program = f"""
import sys
from zoo import runtime
print(runtime.load({str(folder / f"any{suffix}")!r}).predict([{str(PICTURES[0])!r}]).shape)
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & {{
    "torch", "torchvision", "timm", "matplotlib", "scipy", "tabulate", "safetensors", "yaml", "tqdm", "onnx"}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(1, 7)\n\n", f"beside {engine}"


@pytest.mark.parametrize("engine", ["ncnn", "MNN"])
def test_files_for_phones_classify_here_by_the_json_beside_them(tmp_path, engine):
    pytest.importorskip(engine)
    graph = onnx.load_from_string(colour_network(None))
    if engine == "ncnn":
        path, side = tmp_path / "colours.ncnn.param", tmp_path / "colours.ncnn.json"
        write_ncnn(graph, torch.Size((3, 8, 8)), path)
    else:
        path, side = tmp_path / "colours.mnn", tmp_path / "colours.json"
        write_mnn(graph, path)
    with pytest.raises(ValueError, match="does not say how its images are prepared"):
        runtime.load(path)
    side.write_text(said_of_colours())
    red, green = Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "lime")
    rows = runtime.load(path).predict([red, green, red])
    assert rows == pytest.approx(np.array([[0.7310586, 0.2689414], [0.2689414, 0.7310586], [0.7310586, 0.2689414]]))
    path.write_bytes(b"no network")
    with pytest.raises(ValueError, match=f"{engine} cannot open it") as caught:
        runtime.load(path)
    assert str(caught.value).count(str(path)) == 1


def test_classes_without_names_are_numbered(tmp_path):
    (tmp_path / "x.onnx").write_bytes(colour_network(said_of_colours(class_names=[])))
    classifier = runtime.load(tmp_path / "x.onnx")
    (row,) = classifier.predict([Image.new("RGB", (9, 9), (255, 0, 0))])
    assert row == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])
    assert [(one.label, one.name) for one in classifier.top(row)] == [(0, "0"), (1, "1")]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"no graph", "onnxruntime cannot open it"),
        (colour_network(None), "does not say how its images are prepared"),
        (colour_network("{"), "what it says of its images is damaged"),
        (colour_network("[" * 10**5), "what it says of its images is damaged"),
        (colour_network(said_of_colours(mean=None)), "damaged: mean"),
        (colour_network(said_of_colours(input_size=[3, 10**9, 8])), "damaged: input_size"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, content, message):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        runtime.load(tmp_path / "x.onnx")
    assert str(caught.value).startswith(f"{tmp_path / 'x.onnx'}: ") and "\n" not in str(caught.value)


def test_names_that_do_not_fit_the_answer_are_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(colour_network(said_of_colours(), classes=3))
    with pytest.raises(ValueError, match=r"names 2 classes, but its answer to a picture is \(3,\)"):
        runtime.load(tmp_path / "x.onnx").predict([Image.new("RGB", (8, 8))])


def test_other_files_and_none_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"last.pt: runs are .onnx, .xml, .param, .mnn"):
        runtime.load("last.pt")
    with pytest.raises(FileNotFoundError, match=r"x.onnx: no such file"):
        runtime.load(tmp_path / "x.onnx")
    (tmp_path / "y.onnx").write_bytes(colour_network(said_of_colours()))
    with pytest.raises(ValueError, match="no pictures"):
        runtime.load(tmp_path / "y.onnx").predict([])


def test_an_absent_engine_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.onnx").write_bytes(colour_network(said_of_colours()))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="onnxruntime is not installed: pip install onnxruntime"):
        runtime.load(tmp_path / "x.onnx")
