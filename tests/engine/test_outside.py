"""A run and the world around it: processes that die, folders that vanish, a log without a terminal."""

import multiprocessing
import os
import re
import shutil
import signal
import time

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from tests.support.processes import run_apart
from tests.support.training import run_in_child, small_run
from zoo.engine import hardware, log
from zoo.engine import train as train_module
from zoo.engine.hardware import choose_workers


def train_and_lose_a_loader(folder: str) -> None:
    step = train_module.optimiser_step

    def step_and_kill(run, state, batches):
        train_module.optimiser_step = step
        loss = step(run, state, batches)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)  # as the kernel does when memory runs out
        return loss

    train_module.optimiser_step = step_and_kill
    run_in_child(folder, ["--workers", "2", "--epochs", "1"], f"{folder}.log")


def test_a_killed_data_loading_process_is_one_line(tmp_path):
    assert run_apart(train_and_lose_a_loader, f"{tmp_path}/run").code == 1
    last = (tmp_path / "run.log").read_text().splitlines()[-1]
    assert last.startswith("train.py: error: lost a process that loads data (")
    assert last.endswith("): if memory ran out, lower --workers or --batch-size")


def test_a_folder_removed_during_the_run_is_one_line(tmp_path, monkeypatch):
    original, write = train_module.optimiser_step, RecordWriter.write

    def write_slowly(self, data):
        time.sleep(0.02)
        write(self, data)

    def remove(run, state, batches):
        shutil.rmtree(run.folder, ignore_errors=True)
        return original(run, state, batches)

    monkeypatch.setattr(train_module, "optimiser_step", remove)
    monkeypatch.setattr(RecordWriter, "write", write_slowly)
    with pytest.raises(OSError, match=rf"^{tmp_path}/run: the folder of the run was removed while it lasted$"):
        small_run(tmp_path / "run", "--log-interval", "1")


def test_without_a_terminal_messages_say_how_fast_an_epoch_goes(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(log, "MESSAGE_SECONDS", 1e-9)
    with caplog.at_level("INFO"):
        small_run(tmp_path / "run", "--epochs", "1")
    messages = [message for message in caplog.messages if " left" in message]
    pattern = r"epoch 1/1: {}/40 images, loss=\d\.\d+, lr=\d\.\d+ +[\d.]+ images/s  \d\d:\d\d left"
    assert len(messages) == 5
    assert re.fullmatch(pattern.format(8), messages[0]) and re.fullmatch(pattern.format(40), messages[4]), messages


def test_workers_are_as_many_as_the_cores_of_a_process_but_never_none(monkeypatch):
    for cores, processes, wanted in [(1, 1, 1), (2, 1, 2), (2, 4, 1), (16, 2, 4)]:
        monkeypatch.setattr(hardware, "available_cores", lambda cores=cores: cores)
        assert choose_workers(None, processes) == wanted
    assert choose_workers(0) == 0 and choose_workers(5) == 5
