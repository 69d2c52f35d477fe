"""Weights that compute nonsense: every command says so, and loads them only if it is told to."""

import logging

import pytest
import torch
from safetensors.torch import load_file

from tests.support.hostile import (
    weights_with,
)  # fmt: skip
from zoo.cli.main import main

CONV, VARIANCE = "stem.conv.branches.kxk.conv.weight", "stem.conv.branches.kxk.bn.running_var"
NONSENSE = {
    "NaN": weights_with(CONV, lambda w: w * float("nan")),
    "infinite": weights_with(CONV, lambda w: w + float("inf")),
    "a negative variance": weights_with(VARIANCE, lambda v: -v - 1),
}
LOADING = {
    "validate": ["validate", "--checkpoint", "FILE", "--dataset", "fashion", "--val-num-samples", "10"],
    "inspect": ["inspect", "FILE"],
    "deploy": ["deploy", "FILE", "-o", "made/x.safetensors"],
    "expand": ["expand", "FILE", "-o", "made/x.safetensors"],
    "export": ["export", "FILE", "--output", "made/x.onnx"],
    "convert-checkpoint": ["convert-checkpoint", "FILE", "-o", "made/y.pth"],
    "benchmark latency": ["benchmark", "latency", "--checkpoint", "FILE", "--structure", "train", "--engine", "eager"],
}  # fmt: skip


@pytest.mark.parametrize("what", NONSENSE)
@pytest.mark.parametrize("command", LOADING)
def test_every_command_refuses_weights_that_compute_nonsense(command, what, refused):
    error = refused(NONSENSE[what], *LOADING[command], "--model", "repvgg_tiny")
    assert "negative" in error if what == "a negative variance" else "NaN or infinity" in error
    assert "--allow-nonfinite" in error


@pytest.fixture
def loaded_as_asked(honest, tmp_path, monkeypatch, capsys, caplog):
    """Call with a file's builder and a command that is told to load it: its exit code, and what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("zoo"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("zoo"), "handlers", [])
    (tmp_path / "made").mkdir()
    small = {
        "validate": ["--img-size", "16", "--workers", "0"],
        "benchmark latency": ["--img-size", "16", "--batch-size", "1", "--rounds", "2"],
    }

    def load(build, command):
        path = build(tmp_path, honest)
        flags = [*LOADING[command], "--model", "repvgg_tiny", "--allow-nonfinite", *small.get(command, [])]
        code = main([flag.replace("FILE", str(path)) for flag in flags])
        said = capsys.readouterr().err + caplog.text
        assert f"{path}: stem.conv" in said and "; loaded as asked" in said
        return code, said

    return load


@pytest.mark.parametrize("command", [command for command in LOADING if command != "expand"])
def test_a_variance_just_below_zero_is_loaded_if_that_is_asked_for(command, loaded_as_asked):
    """BatchNorm adds more to it: the network computes finite numbers, and its folds are proven like others."""
    code, said = loaded_as_asked(weights_with(VARIANCE, lambda v: torch.full_like(v, -1e-6)), command)
    assert code == 0
    assert f"{VARIANCE} is negative" in said


def test_weights_that_compute_nonsense_are_scored_if_that_is_asked_for(loaded_as_asked):
    assert loaded_as_asked(NONSENSE["NaN"], "validate")[0] == 0


@pytest.mark.parametrize("command", ["deploy", "export", "expand"])
def test_nothing_is_written_of_weights_that_no_proof_holds_for(command, loaded_as_asked, tmp_path):
    """One that has branches cannot be expanded: that command gets a deployed one."""

    def deployed(folder, honest):
        state = load_file(honest / "deployed.safetensors")
        torch.save({**state, "stem.conv.weight": state["stem.conv.weight"] * float("nan")}, folder / "x.pt")
        return folder / "x.pt"

    code, said = loaded_as_asked(deployed if command == "expand" else NONSENSE["NaN"], command)
    assert code == 1
    assert f"zoo {command}: error: " in said and "differs by nan" in said
    assert not list((tmp_path / "made").iterdir())
