"""train.py and validate.py from the command line to the JSON object on the last line of stdout."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import SMALL, small_run

import zoo
from zoo.checkpoints import save_weights
from zoo.cli import main as zoo_main
from zoo.cli import train as train_command
from zoo.cli import validate as validate_command
from zoo.cli.errors import UsageError, report

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of `train.py`: its folder, exit code and stdout."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "small.yaml").write_text(SMALL)
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(folder / "small.yaml"), "--epochs", "1"]
    command += ["--output", str(folder / "run"), "--results-file", str(folder / "results.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def last_json(text):
    return json.loads(text.strip().splitlines()[-1])


def test_the_last_line_of_train_is_its_results(run):
    folder, done = run
    results = last_json(done.stdout)
    assert results == json.loads((folder / "results.json").read_text())
    assert results["model"] == "repvgg_tiny" and results["count"] == 30
    assert results["identical_top1"] is True
    assert set(results["scores"]) == {"raw/train", "raw/deployed", "ema/train", "ema/deployed"}
    assert [row["batch_size"] for row in results["latency"]] == [1, 8]
    for row in results["latency"]:
        assert row["train_ms"] > 0 and row["deployed_ms"] > 0 and row["speedup"] > 0


def test_trainings_results_name_the_branch_set_that_is_not_the_networks_own(run, tmp_path):
    converted = small_run(tmp_path / "run", "--epochs", "1", "--block", "acb", "--no-decay", "norm")
    assert converted.results["block"] == "acb"
    assert "block" not in last_json(run[1].stdout)


def test_tables_go_to_stdout_and_messages_to_stderr(run):
    _, done = run
    assert "| raw/deployed" in done.stdout and "| batch_size" in done.stdout
    assert "proven equal" in done.stderr and "proven equal" not in done.stdout


def test_the_files_of_a_run(run):
    folder, _ = run
    names = {path.name for path in (folder / "run").iterdir()}
    assert names == {
        *("args.yaml", "best.pt", "deployed.safetensors", "last.pt", "previous.pt", "summary.csv", "tensorboard"),
    }
    assert list((folder / "run" / "tensorboard").glob("events.*"))


def test_the_settings_of_a_run_are_a_recipe(run, capsys):
    folder, _ = run
    arguments = ["--config", str(folder / "run" / "args.yaml"), "--resume", "auto"]
    assert train_command.main(arguments) == 0  # nothing left to train: deploys again
    assert last_json(capsys.readouterr().out)["epochs"] == 1


def test_a_checkpoint_alone_continues_its_run(run, capsys):
    folder, _ = run
    assert train_command.main(["--resume", str(folder / "run" / "last.pt")]) == 0
    results = last_json(capsys.readouterr().out)
    assert (results["model"], results["deployed"]) == ("repvgg_tiny", str(folder / "run" / "deployed.safetensors"))


def validate(capsys, *arguments):
    code = validate_command.main([*arguments, "--workers", "0", "--threads", "1"])
    output = capsys.readouterr()
    return code, output


SET = ["--dataset", "fashion", "--val-num-samples", "30"]


def test_validate_repeats_the_scores_of_the_run_in_either_structure(run, capsys):
    folder, done = run
    scores = last_json(done.stdout)["scores"]
    last = str(folder / "run" / "last.pt")
    code, output = validate(capsys, "--checkpoint", last, *SET, "--structure", "both", "--use-ema", "both")
    found = last_json(output.out)
    assert code == 0
    for row in found["rows"]:
        assert row["top1"] == scores[row["network"]]["top1"] and row["count"] == 30
        assert row["loss"] == pytest.approx(scores[row["network"]]["loss"], rel=1e-5)
    assert [pair["identical_top1"] for pair in found["agreement"]] == [True, True]


def test_validate_takes_the_deployed_file_and_knows_how_images_were_cut(run, capsys):
    folder, done = run
    results = last_json(done.stdout)
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


def test_validates_results_name_network_and_branch_set(capsys, tmp_path):
    file = tmp_path / "r.csv"
    code, output = validate(capsys, "--model", "repvgg_tiny", "--block", "acb", *SET, "--results-file", str(file))
    results = last_json(output.out)
    rows = [*results["rows"], *csv.DictReader(file.read_text().splitlines())]
    assert code == 0 and len(rows) == 2
    assert {(found["model"], found["block"]) for found in (results, *rows)} == {("repvgg_tiny", "acb")}
    plain = last_json(validate(capsys, "--model", "repvgg_tiny", *SET)[1].out)
    assert plain["model"] == "repvgg_tiny" and "block" not in plain


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
        (["--model", "repvgg_tiny", "--results-file", "out.txt"], "must end in .json, .csv, .md"),
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


def test_train_refuses_in_one_line(run, capsys):
    folder, _ = run
    assert train_command.main(["--config", str(folder / "small.yaml"), "--output", str(folder / "run")]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("train.py: error: ") and "--resume auto" in output.err
    assert len(output.err.strip().splitlines()) == 1


def test_exit_codes_tell_mistakes_from_mishaps(capsys):
    def raising(error):
        def body():
            raise error

        return body

    assert report("x", raising(UsageError("bad flag"))) == 2
    assert report("x", raising(ValueError("bad value"))) == 2
    assert report("x", raising(FileNotFoundError(2, "No such file", "a.pt"))) == 2
    assert report("x", raising(OSError(28, "No space left on device", "a.pt"))) == 1
    assert report("x", raising(torch.OutOfMemoryError("16 GB"))) == 1
    assert report("x", raising(MemoryError())) == 1
    assert report("x", raising(KeyboardInterrupt())) == 130
    lines = capsys.readouterr().err.splitlines()
    assert lines[2:4] == ["x: error: a.pt: No such file", "x: error: a.pt: No space left on device"]
    assert lines[5] == "x: error: out of memory; lower --batch-size or --img-size"
    with pytest.raises(RuntimeError, match="a bug"):
        report("x", raising(RuntimeError("a bug")))


def test_the_console_script_dispatches_and_suggests(capsys):
    assert zoo_main.main(["--help"]) == 0
    assert "convert-checkpoint" in capsys.readouterr().out
    assert zoo_main.main(["tarin"]) == 2
    assert "did you mean train?" in capsys.readouterr().err
    assert zoo_main.main(["train", "--lr", "x"]) == 2


@pytest.mark.slow
def test_the_quickstart_recipe_learns(tmp_path):
    """One epoch of the quickstart; the whole of it, on two idle cores, is in docs/training.md."""
    command = [sys.executable, str(ROOT / "train.py"), "--config", "quickstart", "--epochs", "2", "--workers", "0"]
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True)
    results = last_json(done.stdout)
    assert results["top1"] > 60 and results["identical_top1"] is True and results["count"] == 2000
