"""An interrupted run, continued, is the run that was not interrupted: bit for bit."""

import dataclasses
import os
import random
import shutil
import signal
import time

import pytest
import torch

import zoo
from tests.support.processes import fresh_process
from tests.support.training import (
    assert_same_state,
    final_state,
    run_in_child,
    small_config,
    small_run,
    summary,
)
from zoo.checkpoints import save_weights
from zoo.cli.config import parse
from zoo.cli.train import settings_of_run
from zoo.data.fashion import Fashion
from zoo.engine import checkpoint, step, train
from zoo.engine.config import TrainConfig
from zoo.engine.state import Interrupted, StopRequest


class Killed(Exception):
    """Stands for a death at this very place."""


def die_after(monkeypatch, steps):
    """Die once after each of these steps, its weights updated and nothing saved: the worst moment."""
    step, remaining = train.optimiser_step, list(steps)

    def fatal(run, state, batches):
        result = step(run, state, batches)
        if remaining and state.progress.step + 1 == remaining[0]:
            remaining.pop(0)
            raise Killed
        return result

    monkeypatch.setattr(train, "optimiser_step", fatal)


def test_two_runs_are_equal(whole, tmp_path):
    small_run(tmp_path / "run")
    assert summary(tmp_path / "run") == summary(whole)
    assert_same_state(final_state(tmp_path / "run"), final_state(whole))


@pytest.mark.parametrize("deaths", [[1], [4], [5, 6, 9], [10, 14]])
def test_a_run_that_died_at_some_steps_ends_as_if_it_had_not(deaths, whole, tmp_path, monkeypatch):
    die_after(monkeypatch, deaths)
    for _ in deaths:
        with pytest.raises(Killed):
            small_run(tmp_path / "run", "--resume", "auto")
    small_run(tmp_path / "run", "--resume", "auto")
    assert summary(tmp_path / "run") == summary(whole)
    assert_same_state(final_state(tmp_path / "run"), final_state(whole))


def test_a_run_over_a_folder_by_a_recipe_continues_from_its_file_alone(tmp_path, monkeypatch):
    for split in ("train", "val"):
        images = Fashion(split)
        for number in range(0, len(images), len(images) // 20):
            image, label = images[number]
            (folder := tmp_path / "images" / split / str(label)).mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number}.png")
    source = ["--dataset", "folder", "--data-dir", str(tmp_path / "images")]
    small_run(tmp_path / "whole", *source)
    die_after(monkeypatch, [4])
    with pytest.raises(Killed):
        small_run(tmp_path / "run", *source)
    (tmp_path / "small.yaml").unlink()
    argv = ["--resume", str(tmp_path / "run" / "last.pt")]
    saved = parse(TrainConfig, argv, "train.py")
    train.train(parse(TrainConfig, argv, "train.py", settings_of_run(saved)))
    assert summary(tmp_path / "run") == summary(tmp_path / "whole")
    assert_same_state(final_state(tmp_path / "run"), final_state(tmp_path / "whole"))


def test_workers_change_nothing(whole, tmp_path):
    small_run(tmp_path / "run", "--workers", "2")
    assert summary(tmp_path / "run") == summary(whole)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_finishes_the_step_saves_and_stops(signum, whole, tmp_path, monkeypatch, default_signals):
    step = train.optimiser_step

    def interrupted(run, state, batches):
        if state.progress.step == 6:
            os.kill(os.getpid(), signum)
        return step(run, state, batches)

    monkeypatch.setattr(train, "optimiser_step", interrupted)
    with pytest.raises(Interrupted, match=r"after step 7.*last\.pt") as stop:
        small_run(tmp_path / "run")
    assert stop.value.exit_code == 128 + signum
    assert final_state(tmp_path / "run")["/progress/step"] == 7
    monkeypatch.undo()
    small_run(tmp_path / "run", "--resume", "auto")
    assert summary(tmp_path / "run") == summary(whole)


@pytest.fixture
def default_signals():
    """SIGHUP and SIGINT end this process, as they do unless the suite runs under `nohup` or behind a shell's `&`."""
    defaults = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nohup_still_protects_a_run(default_signals):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert stop.signum == 0


@pytest.mark.slow
def test_a_run_killed_five_times_at_random_moments_ends_as_if_it_had_not(whole, tmp_path):
    context, draw, folder, log = fresh_process(), random.Random(0), tmp_path / "run", str(tmp_path / "log")
    arguments = (str(folder), ["--resume", "auto", "--checkpoint-interval", "1"], log)
    kills, deadline = 0, time.monotonic() + 300
    while kills < 5:
        child = context.Process(target=run_in_child, args=arguments)
        before = (folder / "last.pt").stat().st_mtime_ns if (folder / "last.pt").exists() else 0
        child.start()
        # A while after the first checkpoint of this life, so that each life gets somewhere.
        while child.is_alive() and time.monotonic() < deadline:
            now = (folder / "last.pt").stat().st_mtime_ns if (folder / "last.pt").exists() else 0
            if now != before:
                time.sleep(draw.uniform(0, 0.05))
                break
            time.sleep(0.01)
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        if not child.is_alive():
            break
        child.kill()
        child.join()
        checkpoint.load(folder / "last.pt")  # whole at any moment
        kills += 1
    assert kills == 5
    last = context.Process(target=run_in_child, args=arguments)
    last.start()
    last.join(300)
    assert last.exitcode == 0, (tmp_path / "log").read_text()
    assert summary(folder) == summary(whole)
    assert_same_state(final_state(folder), final_state(whole))


def test_a_run_is_not_overwritten_unasked(whole):
    before = (whole / "last.pt").read_bytes()
    with pytest.raises(ValueError, match="--resume auto continues it, --overwrite starts anew"):
        small_run(whole)
    assert (whole / "last.pt").read_bytes() == before


@pytest.mark.parametrize(
    "flags, wanted",
    [
        (["--lr", "0.3"], "started with lr 0.05, not 0.3"),
        (["--batch-size", "2"], "started with batch_size 4, not 2"),
        (["--model", "repvgg_a0"], "started with model repvgg_tiny, not repvgg_a0"),
    ],
)
def test_a_run_with_other_settings_is_not_continued(flags, wanted, whole):
    with pytest.raises(ValueError, match=wanted):
        small_run(whole, "--resume", str(whole / "last.pt"), *flags)


def test_a_run_with_another_number_of_processes_is_told_so(whole, tmp_path):
    saved = torch.load(whole / "last.pt", weights_only=True)
    torch.save({**saved, "global_batch": 16}, tmp_path / "two.pt")  # as two processes would have written it
    with pytest.raises(ValueError, match=r"16 images per step .* has 8: continue with as many processes"):
        small_run(tmp_path / "run", "--resume", str(tmp_path / "two.pt"))


@pytest.mark.parametrize("structure", ["train", "deployed"])
def test_a_run_from_a_file_of_ours_takes_its_blocks_and_continues_without_it(structure, tmp_path):
    network = zoo.create_model("repvgg_tiny", num_classes=10, block="acb", deploy=structure == "deployed")
    start, folder = tmp_path / "start.safetensors", tmp_path / "run"
    save_weights(start, network.state_dict(), {"model": "repvgg_tiny", "num_classes": 10, "block": "acb"})
    flags = ["--epochs", "1", "--train-num-samples", "8", "--no-model-ema"]
    config = small_config(folder, "--checkpoint", str(start), *flags, "--no-decay", "1d")
    unnamed = dataclasses.replace(config, model=dataclasses.replace(config.model, model=None))
    train.train(unnamed)
    known = checkpoint.describe(str(folder / "last.pt"))
    assert (known["model"], known["block"]) == ("repvgg_tiny", "acb")
    before = final_state(folder)
    names = {f"/state_dict/{name}" for name in network.state_dict()}
    assert {name for name in before if name.startswith("/state_dict/")} == names
    start.unlink()
    unnamed.run.resume = "auto"
    train.train(unnamed)  # nothing left to train
    assert_same_state(final_state(folder), before)


def test_a_signal_in_the_reduction_or_the_last_evaluation_is_not_lost(tmp_path, monkeypatch):
    def signalled(function):
        """The function, and one signal the first time it has done its work."""
        signals = [signal.SIGTERM]

        def call(*args):
            result = function(*args)
            if signals:
                os.kill(os.getpid(), signals.pop())
            return result

        return call

    folder = tmp_path / "run"
    flags = ["--epochs", "1", "--train-num-samples", "12", "--no-model-ema", "--grad-accum-steps", "1"]
    # The others have been told of no signal in step 1: nobody stops before step 2.
    monkeypatch.setattr(step, "all_sum", signalled(step.all_sum))
    with pytest.raises(Interrupted, match="after step 2;"):
        small_run(folder, *flags)
    monkeypatch.setattr(zoo, "deploy_with_report", signalled(zoo.deploy_with_report))
    with pytest.raises(Interrupted, match="during the last evaluation"):
        small_run(folder, *flags, "--resume", "auto")
    assert not (folder / "deployed.safetensors").exists()


def test_summary_has_one_row_per_epoch(whole):
    lines = summary(whole).splitlines()
    assert lines[0].startswith("epoch,step,lr,train_loss,loss,top1,top5,ema_loss,ema_top1,ema_top5")
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3"]


def test_merged_training_takes_the_same_part_of_each_batch_again(tmp_path, monkeypatch):
    flags = ["--merge-pixels=16", "--batch-size=8", "--epochs=2"]
    small_run(tmp_path / "whole", *flags)
    small_run(tmp_path / "by_branch", *flags[1:])
    assert summary(tmp_path / "whole") != summary(tmp_path / "by_branch")
    die_after(monkeypatch, [4])
    with pytest.raises(Killed):
        small_run(tmp_path / "run", *flags)
    small_run(tmp_path / "run", *flags, "--resume=auto")
    assert summary(tmp_path / "run") == summary(tmp_path / "whole")
    assert_same_state(final_state(tmp_path / "run"), final_state(tmp_path / "whole"))
    with pytest.raises(ValueError, match="merge_pixels"):
        small_run(tmp_path / "run", *flags[1:], "--resume=auto")


@pytest.mark.slow
def test_a_training_with_rounding_continues_with_its_ranges(whole, tmp_path, monkeypatch):
    start = shutil.copy(whole / "last.pt", tmp_path / "start.pt")
    flags = ["--qat", "--epochs=1", "--no-decay=1d", f"--checkpoint={start}"]
    small_run(tmp_path / "whole", *flags)
    die_after(monkeypatch, [4])
    with pytest.raises(Killed):
        small_run(tmp_path / "run", *flags)
    start.unlink()
    small_run(tmp_path / "run", *flags, "--resume=auto")
    assert summary(tmp_path / "run") == summary(tmp_path / "whole")
    assert_same_state(final_state(tmp_path / "run"), final_state(tmp_path / "whole"))
    one, other = ((tmp_path / name / "deployed.bin").read_bytes() for name in ("run", "whole"))
    assert one == other
