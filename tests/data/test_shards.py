"""Sets at scale through timm's readers: webdataset shards, and Hugging Face datasets, at random and in sequence."""

import io
import json
import tarfile
from pathlib import Path

import datasets
import pytest
import torch

from tests.support.training import assert_same_state, final_state, small_config, small_run, summary
from zoo.cli.config import parse
from zoo.cli.main import main
from zoo.cli.train import settings_of_run
from zoo.data import EvalLoader, EvalTransform, create_dataset
from zoo.data.fashion import CLASSES, Fashion
from zoo.engine import train as engine
from zoo.engine.build import open_dataset
from zoo.engine.config import TrainConfig

# webdataset leaves it to the garbage collector to close its shards.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SPLITS = {"train": ("train", range(0, 5000, 125)), "validation": ("val", range(0, 2000, 100))}
"""40 and 20 of the bundled images, all classes alike."""


def images_of(split: str) -> list[tuple[bytes, int]]:
    """(PNG, label) of a split."""
    source, indices = SPLITS[split]
    fashion, encoded = Fashion(source), []
    for index in indices:
        image, label = fashion[index]
        image.save(buffer := io.BytesIO(), "png")
        encoded.append((buffer.getvalue(), label))
    return encoded


def write_shards(folder: Path, shards: int) -> None:
    """Every split as tar files of webdataset, every shard with every class, and timm's index of them."""
    info = {}
    for split in SPLITS:
        images = images_of(split)
        names = [f"{split}-{shard}.tar" for shard in range(shards)]
        for shard, name in enumerate(names):
            with tarfile.open(folder / name, "w") as tar:
                for number, (png, label) in list(enumerate(images))[shard::shards]:
                    for suffix, content in (("png", png), ("cls", str(label).encode())):
                        entry = tarfile.TarInfo(f"{number:04}.{suffix}")
                        entry.size = len(content)
                        tar.addfile(entry, io.BytesIO(content))
        lengths = [len(images[shard::shards]) for shard in range(shards)]
        info[split] = {"name": split, "filenames": names, "shard_lengths": lengths, "num_samples": len(images)}
    (folder / "info.json").write_text(json.dumps({"splits": info}))


def write_parquet(folder: Path, shards: int) -> None:
    """Every split as a Hugging Face dataset of parquet files."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    for split in SPLITS:
        for shard in range(shards):
            images = images_of(split)[shard::shards]
            columns = {"image": [{"bytes": png} for png, _ in images], "label": [label for _, label in images]}
            part = datasets.Dataset.from_dict(columns, features=features)
            part.to_parquet(folder / f"{split}-{shard:05}-of-{shards:05}.parquet")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, 2)
    return folder


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hugging") / "face"
    folder.mkdir()
    write_parquet(folder, 2)
    return folder


def flags(source: str, shards: Path, parquet: Path) -> list[str]:
    """Where a small run reads a source, and how much of it there is where the source does not say."""
    if source == "wds":
        return ["--dataset=wds/fashion", f"--data-dir={shards}", "--num-classes=10"]
    counts = ["--train-num-samples=40", "--val-num-samples=20"]
    return [f"--dataset={source}/{parquet}", f"--data-dir={parquet.parent / 'cache'}", *counts]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", ["wds", "hfds", "hfids"])
def test_every_validation_image_is_read_once_as_it_was_written(source, workers, shards, parquet):
    if source == "wds":
        dataset = create_dataset("wds/fashion", shards, "validation")
    else:
        count = {"num_samples": 20} if source == "hfids" else {}
        dataset = create_dataset(f"{source}/{parquet}", parquet.parent / "cache", "validation", **count)
    transform = EvalTransform(img_size=28, crop_pct=1.0)
    batches = list(EvalLoader(dataset, transform, batch_size=8, workers=workers))
    direct = list(EvalLoader(Fashion("val"), transform, batch_size=100))
    wanted = torch.cat([images[:1] for images, _, _ in direct])
    labels = torch.cat([targets[:1] for _, targets, _ in direct])

    images, targets = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
    assert len(images) == len(wanted) == 20
    same = (images[:, None] == wanted[None]).flatten(2).all(2)
    assert same.sum(0).tolist() == same.sum(1).tolist() == [1] * 20
    assert torch.equal(labels[same.int().argmax(1)], targets)


@pytest.mark.parametrize("source", ["wds", "hfids"])
def test_a_run_over_a_stream_dies_and_continues_as_if_it_had_not(source, shards, parquet, tmp_path, monkeypatch):
    arguments = [*flags(source, shards, parquet), "--workers=2", "--epochs=2", "--no-model-ema"]
    whole = small_run(tmp_path / "whole", *arguments)
    assert whole.results["count"] == 20
    assert whole.results["identical_top1"]

    step = engine.optimiser_step

    def fatal(run, state, batches):
        if state.progress.step == 8:  # the middle of the second epoch, a checkpoint behind it at step 6
            raise KeyboardInterrupt
        return step(run, state, batches)

    monkeypatch.setattr(engine, "optimiser_step", fatal)
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "run", *arguments)
    monkeypatch.undo()
    argv = ["--resume", str(tmp_path / "run" / "last.pt"), *flags(source, shards, parquet)]  # without the recipe
    saved = parse(TrainConfig, argv, "train.py")
    engine.train(parse(TrainConfig, argv, "train.py", settings_of_run(saved)))
    assert summary(tmp_path / "run") == summary(tmp_path / "whole")
    assert_same_state(final_state(tmp_path / "run"), final_state(tmp_path / "whole"))


def test_the_seed_changes_the_order_of_a_stream(shards, parquet, tmp_path):
    data = small_config(tmp_path / "run", *flags("wds", shards, parquet)).data

    def order(seed: int) -> list[int]:
        return [int(target) for _, target in open_dataset(data, True, seed)]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_fewer_shards_than_workers_are_an_error_and_no_short_epoch(tmp_path):
    write_shards(tmp_path, 1)
    arguments = ["--dataset=wds/fashion", f"--data-dir={tmp_path}", "--num-classes=10", "--workers=2"]
    with pytest.raises(ValueError, match=r"ended after \d+ of \d+ batches.*lower --workers"):
        small_run(tmp_path / "run", *arguments)


def test_what_a_reader_says_in_a_worker_is_one_line(tmp_path):
    folder = tmp_path / "face"
    folder.mkdir()
    write_parquet(folder, 1)
    with pytest.raises(ValueError, match=r"^the stream of images failed: RuntimeError: .*1 shard.*2 workers.*$"):
        small_run(tmp_path / "run", *flags("hfids", tmp_path, folder), "--workers=2")


COMMAND = "pipe:touch executed #.tar|40"


def by_recipe(folder: Path, command: str) -> list[str]:
    (folder / "recipe.yaml").write_text(
        json.dumps({"dataset": "wds/x", "data_dir": "", "train_split": command, "val_split": command})
    )
    return ["--config", "recipe.yaml"]


def by_flags(folder: Path, command: str) -> list[str]:
    return ["--dataset", "wds/x", "--data-dir", "", "--train-split", command, "--val-split", command]


def by_shard_list(folder: Path, command: str) -> list[str]:
    shards = {"name": "train", "filenames": [command], "shard_lengths": [40], "num_samples": 40}
    (folder / "info.json").write_text(json.dumps({"splits": {"train": shards, "validation": shards}}))
    return ["--dataset", "wds/x", "--data-dir", ""]


@pytest.mark.parametrize(
    "told, command",
    [(by_recipe, COMMAND), (by_flags, COMMAND), (by_shard_list, COMMAND), (by_flags, COMMAND.replace("i", "{i,i}", 1))],
    ids=["recipe", "flags", "shard list", "braces"],
)
def test_no_source_of_images_runs_a_command(told, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--model", "repvgg_tiny", "--num-classes", "10", "--img-size", "16", "--batch-size", "4", "--workers", "0"]
    assert main(["train", *told(tmp_path, command), *flags, "--output", "run"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "runs a command, which no source of images may: unpack it to files first" in errors
    assert not (tmp_path / "executed").exists()
