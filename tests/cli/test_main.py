"""The table of commands: names, help, version, mistakes, and that none of these waits for torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from zoo.cli.main import ZOO, main

ROOT = Path(__file__).resolve().parents[2]


def test_the_overview_lists_every_command(capsys):
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(f"  {name} " in overview for name in ZOO.commands)
    assert main([]) == 0
    assert capsys.readouterr().out == overview


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"zoo {zoo.__version__}\n"


def test_a_command_calls_itself_by_the_name_it_was_called_by(capsys):
    assert main(["train", "--lr", "x"]) == main(["--lr", "x"], command="train") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["zoo train", "train.py"]


@pytest.mark.parametrize(
    "argv, message",
    [
        (["tarin"], "zoo: error: no command 'tarin'; did you mean train?"),
        (["xyzzy"], "zoo: error: no command 'xyzzy'; zoo --help lists all"),
        (["--verison"], "zoo: error: no flag '--verison'; zoo --help lists all"),
    ],
)
def test_an_unknown_command_names_the_nearest(capsys, argv, message):
    assert main(argv) == 2
    assert capsys.readouterr().err == message + "\n"


def test_json_holds_no_nan(capsys, monkeypatch):
    monkeypatch.setattr("zoo.cli.list.run", lambda config: {"loss": float("nan"), "top1": float("inf"), "lr": 0.5})
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"loss": None, "top1": None, "lr": 0.5}


WITHOUT_TORCH = """
import sys
from zoo.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:  # argparse, after --help
    code = stop.code
heavy = sorted({"torch", "timm", "torchvision", "matplotlib"} & sys.modules.keys())
assert not heavy, heavy
sys.exit(code)
"""


@pytest.mark.parametrize(
    "code, argv",
    [
        (0, ["--help"]),
        (0, ["--version"]),
        (0, ["train", "--help"]),
        (0, ["validate", "--help"]),
        (2, ["train", "--epoch", "3"]),
        (2, ["train", "--lr", "x"]),
        (2, ["trian"]),
        (0, ["list"]),
        (0, ["list", "repvgg*", "--sort", "macs", "--json"]),
        (0, ["export", "--help"]),
        (0, ["benchmark", "--help"]),
        (0, ["benchmark", "latency", "--help"]),
        (2, ["benchmark", "concat-add", "--rounds", "0"]),
        (0, ["paper", "--help"]),
        (0, ["deploy", "--help"]),
        (2, ["expand", "--blok", "acb"]),
        (0, ["inspect", "--help"]),
        (0, ["convert-checkpoint", "--help"]),
        (0, ["completion", "bash"]),
    ],
)
def test_help_and_mistakes_do_not_wait_for_torch(code, argv):
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *argv], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stderr


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m zoo --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("usage: zoo COMMAND")
