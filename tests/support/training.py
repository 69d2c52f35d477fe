"""A run of a second or two, for the tests of the engine."""

import contextlib
import os
from pathlib import Path
from typing import Any

import torch

from zoo.cli.config import parse
from zoo.engine.config import TrainConfig
from zoo.engine.finish import Trained
from zoo.engine.train import train

# Everything random is on: what a resumed run must repeat.
SMALL = """
model: repvgg_tiny
dataset: fashion
train_num_samples: 40
val_num_samples: 30
img_size: 16
batch_size: 4
workers: 0
epochs: 3
warmup_epochs: 1
lr: 0.05
weight_decay: 1.0e-3
weight_decay_end: 1.0e-4
no_decay: [bias, norm, "!*.identity.*"]
lr_scale: {bias: 2}
clip_grad: 5
drop: 0.1
smoothing: 0.1
mixup: 0.2
aa: rand-m5
reprob: 0.3
model_ema: true
model_ema_decay: 0.9
checkpoint_interval: 3
grad_accum_steps: 2
threads: 1
"""


def small_config(folder: Path, *flags: str) -> TrainConfig:
    """The settings of a small run in `folder`, changed by flags."""
    recipe = folder.parent / "small.yaml"
    recipe.write_text(SMALL)
    return parse(TrainConfig, ["--config", str(recipe), "--output", str(folder), *flags], "train.py")


def small_run(folder: Path, *flags: str) -> Trained:
    """Train in this process."""
    return train(small_config(folder, *flags))


def summary(folder: Path) -> str:
    """summary.csv, to compare runs metric by metric."""
    return (folder / "summary.csv").read_text()


def final_state(folder: Path) -> dict[str, Any]:
    """The last checkpoint without its settings, as a flat dict."""
    saved = torch.load(folder / "last.pt", weights_only=True)
    flat: dict[str, Any] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{path}/{key}", item)
        elif isinstance(value, list):
            for i, item in enumerate(value):
                walk(f"{path}/{i}", item)
        else:
            flat[path] = value

    walk("", {key: value for key, value in saved.items() if key != "config"})
    return flat


def assert_same_state(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        same = torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        assert same, f"{key} differs"


def run_in_child(folder: str, flags: list[str], log: str) -> None:
    """Target of a child process: the same as `train.py`, its stderr and stdout in a file."""
    from zoo.cli.main import main

    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        recipe = Path(folder).parent / "small.yaml"
        recipe.write_text(SMALL)
        with contextlib.redirect_stderr(file), contextlib.redirect_stdout(file):
            code = main(["--config", str(recipe), "--output", folder, *flags], command="train")
            file.flush()
    os._exit(code)


def run_rank_in_child(
    rank: int, world_size: int, port: int, folder: str, flags: list[str], log: str, double: bool = False
) -> None:
    """Target of a child process: one of the processes that torchrun would start, in float64 if asked."""
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    run_in_child(folder, flags, f"{log}.{rank}")
