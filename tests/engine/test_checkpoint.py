"""The checkpoints of a run: which are kept, and what happens to damaged ones."""

import errno
import os
import shutil

import pytest
import torch

import zoo
from tests.support.training import (
    small_run,
)
from zoo.engine import checkpoint


class Killed(Exception):
    """Stands for a death at this very place."""


def test_the_previous_checkpoint_is_kept(whole):
    last, previous = (torch.load(whole / name, weights_only=True) for name in ("last.pt", "previous.pt"))
    assert last["progress"]["epoch"] == 3
    assert (previous["progress"]["epoch"], previous["progress"]["batch"]) == (2, 10)


def test_best_is_the_checkpoint_of_the_best_epoch(whole):
    progress = torch.load(whole / "best.pt", weights_only=True)["progress"]
    assert progress["best_epoch"] == progress["epoch"]
    best = max(max(row["top1"], row["ema_top1"]) for row in final_rows(whole))
    assert progress["best_top1"] == best


def final_rows(folder):
    return torch.load(folder / "last.pt", weights_only=True)["progress"]["history"]


@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_damaged_checkpoint_is_refused_and_the_previous_one_named(keep, whole, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    data = (whole / "last.pt").read_bytes()
    (folder / "last.pt").write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    (folder / "previous.pt").write_bytes(data)
    with pytest.raises(ValueError, match=r"last\.pt: damaged.*--resume .*previous\.pt"):
        small_run(folder, "--resume", "auto")


def test_a_checkpoint_of_a_run_is_known_by_what_it_holds(whole, tmp_path):
    shutil.copy(whole / "last.pt", tmp_path / "renamed.pth")
    assert checkpoint.is_run(tmp_path / "renamed.pth") and not checkpoint.is_run(whole / "deployed.safetensors")
    assert zoo.read_checkpoint(tmp_path / "renamed.pth").images["input_size"] == (3, 16, 16)


def test_without_hard_links_a_second_name_is_a_copy(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for content in (b"one", b"another"):
        (tmp_path / "last.pt").write_bytes(content)
        checkpoint.link(tmp_path / "last.pt", tmp_path / "best.pt")
        assert (tmp_path / "best.pt").read_bytes() == (tmp_path / "last.pt").read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "best.pt"}


def test_giving_a_file_a_second_name_twice_leaves_nothing_behind(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"one")
    for _ in range(2):
        checkpoint.link(tmp_path / "last.pt", tmp_path / "best.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "best.pt"}


def test_a_run_that_died_before_it_named_its_best_checkpoint_makes_up_for_it(tmp_path, monkeypatch):
    link = checkpoint.link

    def fatal(source, target):
        if target.name == "best.pt":
            raise Killed
        link(source, target)

    folder = tmp_path / "run"
    flags = ["--epochs", "1", "--train-num-samples", "8", "--no-model-ema", "--resume", "auto"]
    monkeypatch.setattr(checkpoint, "link", fatal)
    with pytest.raises(Killed):
        small_run(folder, *flags)
    monkeypatch.undo()
    assert not (folder / "best.pt").exists()
    small_run(folder, *flags)
    assert torch.load(folder / "best.pt", weights_only=True)["progress"]["epoch"] == 1
