"""validate.py from the command line to its results."""

import csv

import pytest
import torch
from PIL import Image

import zoo
from tests.support.commands import last_json, results_of
from zoo.checkpoints import save_weights
from zoo.cli.main import main
from zoo.engine import validate as validate_module


def validate(capsys, *arguments):
    code = main([*arguments, "--workers", "0", "--threads", "1", "--json"], command="validate")
    output = capsys.readouterr()
    return code, output


SET = ["--dataset", "fashion", "--val-num-samples", "30"]


def test_validate_repeats_the_scores_of_the_run_in_either_structure(run, capsys):
    folder, _ = run
    scores = results_of(run)["scores"]
    last = str(folder / "run" / "last.pt")
    code, output = validate(capsys, "--checkpoint", last, *SET, "--structure", "both", "--use-ema", "both")
    found = last_json(output.out)
    assert code == 0
    for row in found["rows"]:
        assert row["top1"] == scores[row["network"]]["top1"] and row["count"] == 30
        assert row["loss"] == pytest.approx(scores[row["network"]]["loss"], rel=1e-5)
    assert [pair["identical_top1"] for pair in found["agreement"]] == [True, True]


def test_validate_takes_the_deployed_file_and_knows_how_images_were_cut(run, capsys):
    folder, _ = run
    results = results_of(run)
    code, output = validate(capsys, "--checkpoint", str(folder / "run" / "deployed.safetensors"), *SET)
    assert code == 0
    (row,) = last_json(output.out)["rows"]
    assert row["network"] == "weights/deployed" and row["top1"] == results["top1"]
    assert row["loss"] == pytest.approx(results["scores"][f"{results['weights']}/deployed"]["loss"], rel=1e-5)


def test_validate_distorts_counts_per_class_and_writes_tables(run, capsys, tmp_path):
    folder, _ = run
    files = {name: tmp_path / name for name in ("class.csv", "confusion.csv", "results.md", "results.csv")}
    code, output = validate(
        capsys,
        *("--checkpoint", str(folder / "run" / "last.pt"), *SET, "--distort", "none,rot90,rot180,vflip"),
        *("--per-class", str(files["class.csv"]), "--confusion", str(files["confusion.csv"])),
        *("--results-file", str(files["results.csv"])),
    )
    assert code == 0
    rows = last_json(output.out)["rows"]
    assert [row["distort"] for row in rows] == ["none", "rot90", "rot180", "vflip"]
    classes = list(csv.DictReader(files["class.csv"].read_text().splitlines()))
    assert [row["name"] for row in classes[:2]] == ["T-shirt/top", "Trouser"]
    assert sum(int(row["count"]) for row in classes) == 30
    correct = sum(int(row["correct"]) for row in classes)
    assert 100 * correct / 30 == pytest.approx(rows[0]["top1"])
    table = [list(map(int, line.split(",")[-10:])) for line in files["confusion.csv"].read_text().splitlines()[1:]]
    assert sum(map(sum, table)) == 30 and sum(table[i][i] for i in range(10)) == correct
    assert len(files["results.csv"].read_text().splitlines()) == 5


def test_a_confusion_matrix_is_a_picture_where_its_file_is_named_so(run, capsys, tmp_path):
    checkpoint, pictures = str(run[0] / "run" / "last.pt"), (tmp_path / "confusion.png", tmp_path / "classes.png")
    flags = ["--confusion", str(pictures[0]), "--per-class", str(pictures[1])]
    code, _ = validate(capsys, "--checkpoint", checkpoint, *SET, *flags)
    assert code == 0
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.format == "PNG" and len(image.convert("L").getcolors()) > 20
    code, output = validate(capsys, "--checkpoint", checkpoint, *SET, "--confusion", str(tmp_path / "confusion.txt"))
    assert code == 2 and "expected a name ending in .csv or .png" in output.err


def test_validates_results_name_network_and_branch_set(capsys, tmp_path):
    file = tmp_path / "r.csv"
    code, output = validate(capsys, "--model", "repvgg_tiny", "--block", "acb", *SET, "--results-file", str(file))
    results = last_json(output.out)
    rows = [*results["rows"], *csv.DictReader(file.read_text().splitlines())]
    assert code == 0 and len(rows) == 2
    assert {(found["model"], found["block"]) for found in (results, *rows)} == {("repvgg_tiny", "acb")}
    plain = last_json(validate(capsys, "--model", "repvgg_tiny", *SET)[1].out)
    assert plain["model"] == "repvgg_tiny" and "block" not in plain


def test_validate_says_that_weights_are_random(run, capsys, monkeypatch):
    said = []
    monkeypatch.setattr(validate_module.logger, "warning", lambda text, *values: said.append(text % values))
    validate(capsys, "--checkpoint", str(run[0] / "run" / "last.pt"), *SET)
    assert not said
    validate(capsys, "--model", "repvgg_tiny", *SET)
    assert len(said) == 1 and said[0].startswith("repvgg_tiny has random weights")


def test_validate_counts_classes_that_only_the_network_has(capsys, tmp_path):
    network = zoo.create_model("repvgg_tiny", num_classes=12)
    torch.nn.init.constant_(network.head.fc.bias[11], 1e3)
    save_weights(tmp_path / "twelve.safetensors", network.state_dict(), {"model": "repvgg_tiny", "num_classes": 12})
    tables = [tmp_path / "class.csv", tmp_path / "confusion.csv"]
    flags = ["--per-class", str(tables[0]), "--confusion", str(tables[1]), "--img-size", "16"]
    code, output = validate(capsys, "--checkpoint", str(tmp_path / "twelve.safetensors"), *SET, *flags)
    assert code == 0, output.err
    classes, confusion = (list(csv.DictReader(table.read_text().splitlines())) for table in tables)
    assert [row["name"] for row in classes[8:]] == ["Bag", "Ankle boot", "10", "11"]
    assert [int(row["count"]) for row in classes[10:]] == [0, 0]
    assert sum(int(row["11"]) for row in confusion) == 30


def test_recalibrated_batchnorm_is_that_of_the_training_images(run, capsys):
    folder, _ = run
    common = ["--checkpoint", str(folder / "run" / "last.pt"), *SET, "--use-ema", "raw"]
    losses = []
    for extra in ([], ["--recalibrate-bn", "64"], ["--recalibrate-bn", "64"]):
        code, output = validate(capsys, *common, *extra)
        assert code == 0
        losses.append(last_json(output.out)["rows"][0]["loss"])
    assert losses[1] == losses[2] != losses[0]


def test_real_labels_follow_the_file_names(tmp_path):
    from zoo.data.image_sets import ImageSet
    from zoo.engine.validate import _real_labels

    class Named(ImageSet):
        names = ["b/ILSVRC2012_val_00000003.JPEG", "a/ILSVRC2012_val_00000001.JPEG"]

        def __len__(self):
            return 2

        def __getitem__(self, index):
            raise NotImplementedError

        def filename(self, index):
            return self.names[index]

    file = tmp_path / "real.json"
    file.write_text("[[5], [6, 7], []]")
    assert _real_labels(str(file), Named()) == [[], [5]]
    for text, wanted in {
        '{"1": [5]}': "list of lists", "[5, 6, 7]": "list of lists", '[["a"], [], []]': "list of lists",
        "[" * 100_000: "list of lists", "[[5], [6]]": "lists 2 images, and there is one of number 3",
    }.items():  # fmt: skip
        file.write_text(text)
        with pytest.raises(ValueError, match=wanted):
            _real_labels(str(file), Named())
    file.write_text("[[5], [6, 7], []]")
    Named.names = ["ILSVRC2012_val_00000000.JPEG"] * 2
    with pytest.raises(ValueError, match="lists 3 images, and there is one of number 0"):
        _real_labels(str(file), Named())


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        (["--checkpoint", "{run}/deployed.safetensors", "--structure", "both"], "its branches are gone"),
        (["--checkpoint", "{run}/deployed.safetensors", "--recalibrate-bn", "8"], "no BatchNorm left"),
        (["--checkpoint", "{run}/deployed.safetensors", "--use-ema", "ema"], "deployed.safetensors"),
        (["--checkpoint", "{run}/nothing.pt"], "nothing.pt"),
        (["--checkpoint", "{run}/summary.csv", "--model", "repvgg_tiny"], "summary.csv"),
        (["--checkpoint", "{run}/last.pt", "--model", "repvgg_a0"], "repvgg_tiny"),
        ([], "give --model"),
        (
            ["--model", "repvgg_tiny", "--results-file", "out.txt"],
            "results_file: expected a name ending in .json or .csv or .md",
        ),
        (["--model", "repvgg_tiny", "--results-file", "/no/such/folder/out.json"], "does not exist"),
        (["--model", "repvgg_tiny", "--per-class", "/no/such/c.csv"], "the folder of /no/such/c.csv does not exist"),
        (["--model", "repvgg_tiny", "--confusion", "/no/such/c.csv"], "the folder of /no/such/c.csv does not exist"),
        (["--model", "repvgg_tiny", "--real-labels", "/no/such/real.json"], "real_labels: /no/such/real.json"),
    ],
)
def test_validate_refuses_in_one_line(run, capsys, arguments, wanted):
    folder, _ = run
    code, output = validate(capsys, *(a.format(run=folder / "run") for a in arguments), *SET)
    lines = output.err.strip().splitlines()
    assert code == 2, output.err
    assert lines[-1].startswith("validate.py: error: ") and wanted in lines[-1]
    assert "Traceback" not in output.err and not output.out
