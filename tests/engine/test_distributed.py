"""Two processes over gloo do what one does."""

import copy
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import zoo
from tests.support.processes import fresh_process
from tests.support.training import run_rank_in_child, small_config
from zoo.engine import checkpoint
from zoo.engine.distributed import Processes, WorkerLostError, joined, synchronise_batchnorm
from zoo.engine.train import _forward

# No randomness that belongs to a process. In float64: BatchNorm over few pixels multiplies rounding by five a step.
ALIKE = ["--mixup", "0", "--drop", "0", "--sync-bn", "--epochs", "2", "--no-model-ema", "--json"]
ALIKE += ["--train-num-samples", "24", "--val-num-samples", "31"]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(folder, *flags, world_size=2, double=False):
    """The processes of a run; they log to FOLDER.log.RANK."""
    port, log, ranks = free_port(), f"{folder}.log", range(world_size)
    arguments = [(rank, world_size, port, str(folder), list(flags), log, double) for rank in ranks]
    processes = [fresh_process().Process(target=run_rank_in_child, args=a) for a in arguments]
    for process in processes:
        process.start()
    return processes


def join(processes, folder):
    for process in processes:
        process.join(240)
    logs = [Path(f"{folder}.log.{rank}").read_text() for rank in range(len(processes))]
    return [process.exitcode for process in processes], logs


def losses(folder):
    history = checkpoint.load(folder / "last.pt").progress.history
    return [row["train_loss"] for row in history], [row["loss"] for row in history]


def test_two_processes_equal_one_and_evaluate_each_image_once(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    alone = start(one, *ALIKE, world_size=1, double=True)
    together = start(two, *ALIKE, "--batch-size", "2", double=True)
    (code,), (log,) = join(alone, one)
    codes, logs = join(together, two)
    assert (code, codes) == (0, [0, 0]), (log, logs)
    # 6 steps: 2 epochs of 3 steps of 8 images
    for mine, theirs in zip(losses(one), losses(two), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9)
    assert '"count":31' in log and '"count":31' in logs[0]
    states = [checkpoint.load(folder / "last.pt").state_dict for folder in (one, two)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-6, atol=1e-6, msg=name)


def test_a_dead_process_is_reported_in_one_line_by_the_other(tmp_path):
    folder = tmp_path / "run"
    processes = start(
        folder, "--epochs", "500", "--batch-size", "2", "--dist-timeout", "20", "--checkpoint-interval", "1"
    )
    deadline = time.monotonic() + 120
    while not (folder / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].kill()
    (code, _), logs = join(processes, folder)
    lines = [line for line in logs[0].splitlines() if "error" in line]
    assert code == 1, logs
    assert len(lines) == 1 and "lost another process of the run" in lines[0], logs[0]
    assert "Traceback" not in logs[0]
    checkpoint.load(folder / "last.pt")


def test_a_process_that_never_comes_is_reported_in_one_line(monkeypatch):
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "RANK": 0, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    with (
        pytest.raises(WorkerLostError, match=r"^process 0: lost another process of the run \(Timed out.*\)$"),
        joined(Processes(world_size=2), timeout=1),
    ):
        pass


def test_processes_share_buffers_as_configured_and_torch_warns_of_nothing(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for flag, shared in (("--broadcast-buffers", True), ("--no-broadcast-buffers", False)):
            config = small_config(tmp_path / "run", flag)
            wrapped: Any = _forward(nn.BatchNorm2d(2), config, Processes(world_size=2))
            assert wrapped.will_sync_module_buffers() is shared
    finally:
        dist.destroy_process_group()


def test_synchronising_on_the_cpu_keeps_keys_weights_and_the_eval_answer():
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    nn.init.uniform_(model[1].running_var, 0.5, 2)
    x = torch.randn(2, 3, 8, 8)
    before, keys = model(x), list(model.state_dict())
    model = synchronise_batchnorm(model, torch.device("cpu"))
    assert list(model.state_dict()) == keys and torch.equal(model(x), before)
    assert zoo.deploy_with_report(model, x)[1].folded_norms == 1


def test_a_process_alone_normalises_as_batchnorm_does_and_so_does_a_copy_of_the_network(tmp_path):
    """The copy (an average of weights, a deployed network) has statistics of its own."""
    plain, x = nn.BatchNorm2d(4).double(), torch.randn(5, 4, 3, 3, dtype=torch.float64)
    nn.init.uniform_(plain.weight)
    synchronised: Any = synchronise_batchnorm(nn.Sequential(copy.deepcopy(plain)), torch.device("cpu"))
    copied: Any = copy.deepcopy(synchronised)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        torch.testing.assert_close(copied(x), plain(x))
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(copied[0].state_dict(), plain.state_dict())
    assert torch.equal(synchronised[0].running_mean, torch.zeros(4, dtype=torch.float64))


def test_a_norm_that_only_gpus_synchronise_is_named():
    from timm.layers import BatchNormAct2d

    model = nn.Sequential(BatchNormAct2d(4))
    with pytest.raises(ValueError, match=r"sync_bn: 0 \(BatchNormAct2d\)"):
        synchronise_batchnorm(model, torch.device("cpu"))
