"""What goes wrong in a run is said in one line, and nothing good is lost by it."""

import ctypes
import json
import math
import os
import resource
import signal
import sys
import time
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from tests.support.processes import fresh_process, run_apart
from tests.support.training import final_state, run_in_child, small_config, small_run, summary
from zoo.engine import checkpoint, step
from zoo.engine import train as train_module
from zoo.engine.hardware import choose_device, choose_dtype, keep_memory
from zoo.engine.step import DivergedError, restore_buffers
from zoo.engine.train import train


@pytest.fixture
def poison(monkeypatch):
    """Call with the numbers of the batches whose loss, or only its gradient, is to be NaN."""
    original = step.classification_loss

    def install(batches, what="loss"):
        seen = iter(range(10**6))

        def loss(outputs, targets, smoothing):
            nothing = outputs.sum() * 0
            spoilt = {"loss": nothing * float("nan"), "gradient": nothing.sqrt()}[what]
            return original(outputs, targets, smoothing) + (spoilt if next(seen) in batches else 0)

        monkeypatch.setattr(step, "classification_loss", loss)

    return install


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_with_nan_loss_or_gradient_is_skipped(what, poison, tmp_path):
    poison({1}, what)
    trained = small_run(tmp_path / "run", "--epochs", "1", "--grad-accum-steps", "1", "--no-model-ema")
    assert trained.results["skipped_steps"] == 1
    state = final_state(tmp_path / "run")
    assert state["/progress/step"] == 10 and state["/progress/skipped"] == 1
    assert all(torch.isfinite(v).all() for v in state.values() if isinstance(v, torch.Tensor))


def test_a_skipped_step_reads_all_of_its_batches(poison, tmp_path, monkeypatch):
    poison({0})
    original, left = train_module.optimiser_step, []

    def spy(run, state, batches):
        result = original(run, state, batches)
        left.append(len(list(batches)))
        return result

    monkeypatch.setattr(train_module, "optimiser_step", spy)
    small_run(tmp_path / "run", "--epochs", "1", "--no-model-ema")
    assert left == [0] * 5


def test_a_nan_image_does_not_spoil_batchnorm():
    network: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    network(torch.randn(2, 3, 8, 8))
    before = [b.clone() for b in network.buffers()]
    network(torch.full((2, 3, 8, 8), float("nan")))
    assert not torch.isfinite(network[1].running_mean).all()
    restore_buffers(list(network.buffers()), before)
    assert all(torch.isfinite(buffer).all() for buffer in network.buffers())
    assert all(torch.equal(a, b) for a, b in zip(before, network.buffers(), strict=True))


def test_too_many_nan_steps_stop_the_run_and_name_the_last_good_checkpoint(poison, tmp_path):
    poison(set(range(12, 30)))
    flags = ["--max-nonfinite-steps", "2", "--checkpoint-interval", "1", "--grad-accum-steps", "1"]
    with pytest.raises(DivergedError, match=r"3 steps in a row \(epoch 2, step 15\).*is .*last\.pt; lower --lr"):
        small_run(tmp_path / "run", *flags)
    saved = checkpoint.load(tmp_path / "run" / "last.pt")
    assert [saved.progress.epoch, saved.progress.batch, saved.progress.nonfinite] == [1, 2, 0]
    assert all(torch.isfinite(v).all() for v in saved.state_dict.values())


def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint_whole(tmp_path):
    folder = tmp_path / "run"
    small_run(folder, "--epochs", "1", "--no-model-ema")
    before = (folder / "last.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as a full disk: the write fails, nobody dies
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(OSError, match=r"last\.pt") as error:
            small_run(folder, "--epochs", "1", "--no-model-ema", "--overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert "\n" not in str(error.value)
    assert (folder / "last.pt").read_bytes() == before
    assert not list(folder.glob(".tmp-*"))


def run_in_a_group_of_its_own(*arguments):
    os.setsid()
    run_in_child(*arguments)


@pytest.mark.slow
def test_a_signal_to_the_whole_process_group_stops_workers_and_run_in_one_line(tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    flags = ["--workers", "2", "--epochs", "500", "--checkpoint-interval", "1"]
    run = fresh_process().Process(target=run_in_a_group_of_its_own, args=(str(folder), flags, str(log)))
    run.start()
    deadline = time.monotonic() + 120
    while not (folder / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGTERM)  # as a cluster's scheduler does
    run.join(60)
    errors = log.read_text()
    lines = [line for line in errors.splitlines() if "error:" in line]
    assert run.exitcode == 128 + signal.SIGTERM, errors
    assert "Traceback" not in errors
    assert len(lines) == 1 and "SIGTERM" in lines[0] and "--resume auto" in lines[0]
    checkpoint.load(folder / "last.pt")


@pytest.mark.parametrize(
    "flags, wanted",
    [
        (["--model", "repvgg_a9"], "unknown model 'repvgg_a9'"),
        (["--opt", "sdg"], "no optimiser 'sdg'; did you mean .*sgd"),
        (["--dataset", "fashon"], "unknown dataset 'fashon'"),
        (["--dataset", "", "--data-dir", "/no/such/folder"], "/no/such/folder"),
        (["--checkpoint", "/no/such/file.pth"], "/no/such/file.pth"),
        (["--num-classes", "3"], "the dataset has 10 classes"),
        (["--batch-size", "5"], "mixup pairs images, so it must be even"),
        (["--batch-size", "64"], "training set has 40 images"),
        (["--grad-accum-steps", "11"], "an epoch has only 10 batches"),
        (["--scale", "0.5"], "scale: must be two numbers"),
        (["--progressive", "{1: {epochs: 3}}"], "epochs is not a setting that can change"),
        (["--progressive", "{1: {aa: foo}}"], "aa: expected a policy in timm's notation.*, got 'foo'"),
        (["--aa", "3a", "--color-jitter", "0.4,0.4"], r"takes no aa '3a' with color_jitter \(0.4, 0.4\)"),
        (["--lr-scale", "{stem*: 0}"], r"lr_scale: the multiple of 'stem\*' must be above 0"),
        (["--model-kwargs", "{colour: red}"], "model_kwargs: repvgg_tiny does not take them.*colour"),
        (["--device", "cuda:7"], "'cuda:7' is not available"),
        (["--threads", "100000"], "threads: expected int <= "),
        (["--workers", "99999"], "workers: expected int <= "),
        (["--device", "meta"], "device: expected auto, cpu, cuda, cuda:N, mps or xpu, got 'meta'"),
        (["--resume", "/no/such/run/last.pt"], "/no/such/run/last.pt: no such checkpoint"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(flags, wanted, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=wanted) as error:
        small_run(tmp_path / "run", *flags)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_freezing_batchnorm_keeps_its_statistics(tmp_path):
    small_run(tmp_path / "run", "--epochs", "1", "--freeze-bn", "--no-model-ema")
    state = final_state(tmp_path / "run")
    means = [v for k, v in state.items() if k.startswith("/state_dict/") and k.endswith("running_mean")]
    assert means and all(torch.equal(mean, torch.zeros_like(mean)) for mean in means)


def test_frozen_parameters_do_not_move(tmp_path):
    small_run(tmp_path / "run", "--epochs", "1", "--freeze", "stem.*,stages.*", "--no-decay", "1d", "--no-model-ema")
    trained = final_state(tmp_path / "run")
    torch.manual_seed(42)
    fresh = zoo.create_model("repvgg_tiny", num_classes=10).state_dict()
    for name, moved in [("stem.conv.branches.kxk.conv.weight", False), ("head.fc.weight", True)]:
        assert torch.equal(trained[f"/state_dict/{name}"], fresh[name]) is not moved


def test_a_checkpoint_of_other_classes_starts_with_a_fresh_classifier(tmp_path, caplog):
    source = zoo.create_model("repvgg_tiny", num_classes=7)
    name = "stages.1.0.conv.branches.kxk.conv.weight"
    torch.save(source.state_dict(), tmp_path / "seven.pth")
    weights = ["--checkpoint", str(tmp_path / "seven.pth")]
    flags = [*weights, "--epochs=1", "--lr=0", "--weight-decay=0", "--no-model-ema"]
    with caplog.at_level("INFO"):
        small_run(tmp_path / "run", *flags)
    state = final_state(tmp_path / "run")
    assert torch.equal(state[f"/state_dict/{name}"], source.state_dict()[name])
    assert state["/state_dict/head.fc.weight"].shape[0] == 10
    assert "7" in caplog.text and "10" in caplog.text


def test_progressive_sizes_change_at_their_epoch(tmp_path, monkeypatch):
    sizes = []
    original = train_module.optimiser_step

    def spy(run, state, batches):
        def look():
            for images, targets in batches:
                sizes.append((state.progress.epoch, images.shape[-1]))
                yield images, targets

        return original(run, state, look())

    monkeypatch.setattr(train_module, "optimiser_step", spy)
    small_run(tmp_path / "run", "--progressive", "{0: {img_size: 12}, 2: {img_size: 20}}", "--no-model-ema")
    assert set(sizes) == {(0, 12), (1, 12), (2, 20)}


def test_the_deployed_file_says_what_it_is(tmp_path):
    from safetensors import safe_open

    trained = small_run(tmp_path / "run", "--epochs", "1")
    with safe_open(tmp_path / "run" / "deployed.safetensors", "pt") as file:
        about, keys = json.loads(file.metadata()["zoo"]), set(file.keys())
    assert (about["model"], about["structure"], about["num_classes"]) == ("repvgg_tiny", "deployed", 10)
    assert about["input_size"] == [3, 16, 16]
    assert len(about["report"]["blocks"]) == 8
    assert not any("branches" in key for key in keys)
    assert trained.results["identical_top1"] is True
    assert set(trained.results["scores"]) == {"raw/train", "raw/deployed", "ema/train", "ema/deployed"}


def count_faults(keep: bool) -> None:
    """Print how many pages three steps fault in."""
    ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: huge pages come and go, small ones can be counted
    assert not keep or keep_memory()
    torch.set_num_threads(1)
    # Maps of 40 MiB: above 32 MiB glibc never takes memory from what it kept by its own choice.
    network = nn.Sequential(nn.Conv2d(3, 40, 1), nn.Sigmoid(), nn.Sigmoid())
    before = 0
    for number in range(11):
        if number == 8:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        network(torch.zeros(4, 3, 256, 256)).sum().backward()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is of glibc")
def test_kept_memory_is_not_faulted_in_anew_at_every_step():
    as_it_is, kept = (int(run_apart(count_faults, keep).stdout) for keep in (False, True))
    assert kept < as_it_is / 3


def test_precision_follows_the_hardware(monkeypatch):
    cpu, dense, depthwise = torch.device("cpu"), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=4)
    for amx in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert choose_dtype("auto", cpu, dense) is (torch.bfloat16 if amx else torch.float32)
        assert choose_dtype("auto", cpu, depthwise) is torch.float32
    assert choose_dtype("float16", cpu, dense) is torch.float16
    assert choose_device("cpu") == cpu


def test_bfloat16_trains_and_deploys(tmp_path):
    small_run(tmp_path / "run", "--epochs", "1", "--amp-dtype", "bfloat16")
    state = final_state(tmp_path / "run")
    assert state["/state_dict/head.fc.weight"].dtype is torch.float32


def test_equivalent_l2_has_the_gradient_of_the_equivalent_kernel():
    import zoo
    from zoo.reparam.block import MultiBranchConv2d
    from zoo.reparam.regularisers import equivalent_l2

    model: Any = zoo.create_model("repvgg_tiny")
    kernels = [m.equivalent_kernel().weight for m in model.modules() if isinstance(m, MultiBranchConv2d)]
    value = equivalent_l2(model)
    assert value.item() == pytest.approx(0.5 * sum(k.square().sum().item() for k in kernels))
    (gradient,) = torch.autograd.grad(value, model.stem.conv.branches["kxk"].conv.weight)
    bn = model.stem.conv.branches["kxk"].bn
    scale = (bn.weight / (bn.running_var + bn.eps).sqrt()).detach()
    wanted = kernels[0].detach() * scale.double()[:, None, None, None]
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-6, atol=1e-9)


def test_auxiliary_heads_count_a_tenth():
    from zoo.engine.loss import classification_loss

    logits, aux = torch.randn(4, 3), [torch.randn(4, 3) for _ in range(2)]
    targets = torch.tensor([0, 1, 2, 1])
    cross_entropy = nn.functional.cross_entropy
    wanted = cross_entropy(logits, targets) + 0.1 * sum(cross_entropy(a, targets) for a in aux)
    assert classification_loss((logits, *aux), targets).item() == pytest.approx(wanted.item())


def test_lr_is_scaled_to_the_batch(tmp_path):
    config = small_config(
        tmp_path / "run", "--epochs", "1", "--warmup-epochs", "0", "--lr-base-size", "16", "--no-model-ema"
    )
    train(config)
    lr = float(summary(tmp_path / "run").splitlines()[1].split(",")[2])
    # 8 of 16 images: half of 0.05; the last of 5 steps of the cosine
    assert lr == pytest.approx(0.025 * 0.5 * (1 + math.cos(math.pi * 4 / 5)))
