"""`zoo predict` names what is in pictures, whatever the file of the network."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from tests.support.colours import colour_network, said_of_colours
from tests.support.imagenet import PHOTOS, efficientnet_lite0
from zoo.cli.main import main

TIMM = ["--model", "timm/tf_efficientnet_lite0"]
CATS = {"tabby, tabby cat", "tiger cat", "Egyptian cat"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("weights") / "lite0.safetensors")
    save_file(efficientnet_lite0().state_dict(), path)
    return path


@pytest.fixture
def exported(tmp_path) -> str:
    """A file that tells red from green."""
    path = tmp_path / "colours.onnx"
    path.write_bytes(colour_network(said_of_colours()))
    return str(path)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A red picture, a green one, a damaged one, and a file that is none."""
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(folder / "deeper" / "one 10, bis.png")
    Image.new("RGB", (30, 40), "lime").save(folder / "=two.png")
    (folder / "broken.png").write_text("no picture")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def predict(capsys, *argv: str) -> dict:
    capsys.readouterr()
    assert main(["predict", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def check_photos(results: dict) -> None:
    cat, coffee = (one["predictions"] for one in results["images"])
    assert {best["name"] for best in cat[:3]} == CATS and len(cat) == 5
    assert coffee[0]["name"] == "espresso" and coffee[0]["class"] == 967 and coffee[0]["probability"] > 0.8


def test_a_cat_and_an_espresso_are_named_with_real_weights(weights, capsys):
    check_photos(predict(capsys, str(PHOTOS), "--checkpoint", weights, *TIMM))


@pytest.mark.slow
def test_and_the_same_from_an_exported_file(weights, tmp_path, capsys):
    wanted = predict(capsys, str(PHOTOS), "--checkpoint", weights, *TIMM)
    assert main(["export", weights, *TIMM, "--output", str(tmp_path / "lite0.onnx")]) == 0
    results = predict(capsys, str(PHOTOS), "--checkpoint", str(tmp_path / "lite0.onnx"))
    check_photos(results)
    for one, other in zip(wanted["images"], results["images"], strict=True):
        for best, same in zip(one["predictions"], other["predictions"], strict=True):
            assert (best["class"], best["name"]) == (same["class"], same["name"])
            assert best["probability"] == pytest.approx(same["probability"], abs=1e-4)


def test_a_folder_with_damaged_files_is_classified_all_the_same(exported, pictures, tmp_path, capsys):
    table, grid = tmp_path / "predictions.csv", tmp_path / "grid.png"
    flags = ["--checkpoint", exported, "--batch-size", "2", "--results-file", str(table), "--grid", str(grid)]
    assert main(["predict", str(pictures), *flags]) == 0
    out, err = capsys.readouterr()
    assert "red" in out and "broken.png: not an image" in err and "1 of 3 pictures could not be read" in err
    lines = [line.rsplit(",", 4) for line in table.read_text().splitlines()]
    assert lines[0] == ["image", "rank", "class", "name", "probability"]
    assert [line[1:4] for line in lines[1:]] == [
        ["1", "1", "green"],
        ["2", "0", "red"],
        ["1", "0", "red"],
        ["2", "1", "green"],
    ]
    assert float(lines[1][4]) == pytest.approx(0.7310586)
    with Image.open(grid) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(10**6)}
    assert {(255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)} <= colours

    alone = str(pictures / "deeper" / "one 10, bis.png")  # a comma does not make it two
    results = predict(capsys, alone, "--checkpoint", exported, "--topk", "1")
    assert results["images"][0]["image"] == alone and len(results["images"][0]["predictions"]) == 1


def test_no_cell_of_the_table_runs_in_a_spreadsheet(exported, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(pictures)
    table = tmp_path / "predictions.csv"
    assert main(["predict", "=two.png", "--checkpoint", exported, "--results-file", str(table)]) == 0
    assert table.read_text().splitlines()[1].startswith("'=two.png,1,1,green,")


def test_a_picture_on_stdin(exported, pictures, monkeypatch, capsys):
    class Stdin:
        buffer = io.BytesIO((pictures / "=two.png").read_bytes())

    monkeypatch.setattr(sys, "stdin", Stdin)
    (result,) = predict(capsys, "-", "--checkpoint", exported)["images"]
    assert result["image"] == "-" and result["predictions"][0]["name"] == "green"


def test_an_exported_file_needs_no_torch(exported, pictures):
    program = "import sys; from zoo.cli.main import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    argv = ["predict", str(pictures), "--checkpoint", exported, "--grid", str(pictures / "grid.png")]
    done = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr


@pytest.mark.parametrize(
    "argv, message",
    [
        (["no.jpg", "--checkpoint", "x.onnx"], "no.jpg: no such file or folder"),
        (["{empty}", "--checkpoint", "{exported}"], "no pictures in this folder"),
        (["{pictures}/broken.png", "--checkpoint", "{exported}"], "none of the 1 pictures can be read"),
        (["{pictures}", "--checkpoint", "{exported}", "--model", "repvgg_a0"], "an exported file is complete"),
        (["{pictures}", "--checkpoint", "x.onnx"], "x.onnx: no such file"),
        (["{pictures}"], "give a checkpoint, or --pretrained"),
        (["--checkpoint", "x.onnx"], "required: IMAGE"),
    ],
)
def test_mistakes_are_one_line(exported, pictures, tmp_path, capsys, argv, message):
    (tmp_path / "empty").mkdir()
    names = {"exported": exported, "pictures": pictures, "empty": tmp_path / "empty"}
    assert main(["predict", *(word.format(**names) for word in argv)]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert message in line
