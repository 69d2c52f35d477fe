"""train.py from the command line to its results."""

import pytest
import torch
from google.protobuf.message import EncodeError

from tests.support.commands import last_json, results_of
from tests.support.training import small_run
from zoo.cli.errors import UsageError, report
from zoo.cli.main import main


def test_the_results_file_of_train_holds_scores_and_latency(run):
    results = results_of(run)
    assert results["model"] == "repvgg_tiny" and results["count"] == 30
    assert results["identical_top1"] is True
    assert set(results["scores"]) == {"raw/train", "raw/deployed", "ema/train", "ema/deployed"}
    assert [row["batch_size"] for row in results["latency"]] == [1, 8]
    for row in results["latency"]:
        assert row["train_ms"] > 0 and row["deployed_ms"] > 0 and row["speedup"] > 0


def test_trainings_results_name_the_branch_set_that_is_not_the_networks_own(run, tmp_path):
    converted = small_run(tmp_path / "run", "--epochs", "1", "--block", "acb", "--no-decay", "norm")
    assert converted.results["block"] == "acb"
    assert "block" not in results_of(run)


def test_tables_go_to_stdout_and_messages_to_stderr(run):
    _, done = run
    assert "| raw/deployed" in done.stdout and " batch_size |" in done.stdout
    assert "proven equal" in done.stderr and "proven equal" not in done.stdout
    assert "{" not in done.stdout  # JSON only when asked


def test_the_files_of_a_run(run):
    folder, _ = run
    names = {path.name for path in (folder / "run").iterdir()}
    assert names == {
        *("args.yaml", "best.pt", "deployed.safetensors", "last.pt", "previous.pt", "summary.csv", "tensorboard"),
        *("augmented.png", "curves.png", "mistakes.png"),
    }
    assert list((folder / "run" / "tensorboard").glob("events.*"))


def test_the_settings_of_a_run_are_a_recipe(run, capsys):
    folder, _ = run
    arguments = ["--config", str(folder / "run" / "args.yaml"), "--resume", "auto"]
    assert main([*arguments, "--json"], command="train") == 0  # nothing left to train: deploys again
    assert last_json(capsys.readouterr().out)["epochs"] == 1


def test_a_checkpoint_alone_continues_its_run(run, capsys):
    folder, _ = run
    assert main(["--resume", str(folder / "run" / "last.pt"), "--json"], command="train") == 0
    results = last_json(capsys.readouterr().out)
    assert (results["model"], results["deployed"]) == ("repvgg_tiny", str(folder / "run" / "deployed.safetensors"))


def test_train_refuses_in_one_line(run, capsys):
    folder, _ = run
    assert main(["--config", str(folder / "small.yaml"), "--output", str(folder / "run")], command="train") == 2
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
    for words in ("libtorch_cpu.so: failed to map segment from shared object", "mmap: Cannot allocate memory (12)"):
        assert report("x", raising(ImportError(words))) == 1
    assert report("x", raising(EncodeError("Failed to serialize proto"))) == 1
    assert report("x", raising(KeyboardInterrupt())) == 130
    lines = capsys.readouterr().err.splitlines()
    assert lines[2:4] == ["x: error: a.pt: No such file", "x: error: a.pt: No space left on device"]
    assert lines[5] == "x: error: out of memory; lower --batch-size or --img-size"
    with pytest.raises(RuntimeError, match="a bug"):
        report("x", raising(RuntimeError("a bug")))


@pytest.mark.slow
def test_the_quickstart_recipe_learns(tmp_path, capsys):
    """Two epochs over a part of the images; the whole of it, on two idle cores, is in docs/training.md."""
    images = ["--train-num-samples", "3000", "--val-num-samples", "500"]
    flags = ["--config", "quickstart", "--epochs", "2", "--workers", "0", "--output", str(tmp_path), *images]
    assert main([*flags, "--json"], command="train") == 0
    results = last_json(capsys.readouterr().out)
    assert results["top1"] > 60 and results["identical_top1"] is True and results["count"] == 500
