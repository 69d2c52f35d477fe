"""Loaders: what is read when, that only (seed, epoch, index) matters, and what happens to bad images."""

import logging
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.data import Mixup

from zoo.data import (
    BadImageError,
    EvalLoader,
    EvalTransform,
    TrainLoader,
    TrainTransform,
    create_dataset,
    spread,
)
from zoo.data.fashion import Fashion
from zoo.data.samplers import TrainBatches

TRANSFORM = TrainTransform(img_size=16, scale=(0.5, 1), aa="rand-m5", reprob=0.5, remode="pixel")


def batches(num_images=103, batch_size=5, rank=0, world_size=1, epoch=0, start=0, seed=9):
    sampler = TrainBatches(num_images, batch_size, seed, rank, world_size)
    sampler.set_epoch(epoch, start)
    return list(sampler)


def test_an_epoch_reads_distinct_images_in_its_own_order():
    epochs = [[index for batch in batches(epoch=epoch) for _, index in batch] for epoch in (0, 1)]
    assert all(len(set(epoch)) == len(epoch) == 100 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])
    assert batches(epoch=1) == batches(epoch=1) != batches(epoch=1, seed=10)


def test_starting_in_the_middle_gives_the_rest_of_the_epoch():
    assert batches(epoch=4, start=13) == batches(epoch=4)[13:]
    with pytest.raises(ValueError, match="start_batch is 21, but an epoch has 20 batches"):
        batches(start=21)


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_global_batch_of_one_process(world_size):
    alone = batches(batch_size=20)
    ranks = [batches(batch_size=20 // world_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [list(chain.from_iterable(parts)) for parts in zip(*ranks, strict=True)] == alone


def test_a_set_smaller_than_one_step_is_refused():
    with pytest.raises(ValueError, match="has 7 images, fewer than one step of 8: lower --batch-size"):
        TrainBatches(7, 4, 0, 0, 2)


@pytest.mark.parametrize("num_images", [1, 12, 13])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_evaluation_reads_every_image_once_over_all_processes(num_images, world_size):
    images, transform = spread(Fashion("val"), num_images), EvalTransform(img_size=8)
    parts = [EvalLoader(images, transform, batch_size=4, rank=r, world_size=world_size) for r in range(world_size)]
    read = [int(i) for part in parts for _, _, index in part for i in index]
    assert sorted(read) == list(range(num_images))
    assert [len(part) for part in parts] == [len(list(part)) for part in parts]


def epoch_of(workers=0, epoch=1, start=0, **options):
    dataset = spread(Fashion("train"), 40)
    loader = TrainLoader(dataset, TRANSFORM, batch_size=8, workers=workers, seed=3, **options)
    loader.set_epoch(epoch, start)
    assert len(loader) == 40 // 8 // options.get("world_size", 1)
    return list(loader)


def same(left, right):
    assert len(left) == len(right) > 0
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(left, right, strict=True))


def test_images_depend_neither_on_workers_nor_on_the_global_generators():
    torch.manual_seed(1)
    alone = epoch_of(workers=0)
    torch.manual_seed(2)
    assert same(alone, epoch_of(workers=2))
    assert alone[0][0].shape == (8, 3, 16, 16)
    assert alone[0][0].dtype == torch.float32


def test_another_epoch_augments_the_same_image_otherwise():
    dataset = spread(Fashion("train"), 1)
    loader = TrainLoader(dataset, TRANSFORM, batch_size=1)
    images = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        images.append(next(iter(loader))[0])
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_in_the_middle_gives_the_same_batches(workers):
    mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=1.0, num_classes=10)
    whole = epoch_of(mixup=mixup)
    assert whole[0][1].shape == (8, 10)
    assert same(whole[2:], epoch_of(workers=workers, start=2, mixup=mixup))


def test_persistent_workers_follow_the_epoch():
    dataset = spread(Fashion("train"), 40)
    loader = TrainLoader(dataset, TRANSFORM, batch_size=8, workers=1, seed=3)
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        assert same(list(loader), epoch_of(epoch=epoch))


def test_two_processes_read_what_one_reads():
    halves = [
        list(TrainLoader(spread(Fashion("train"), 40), TRANSFORM, batch_size=4, rank=rank, world_size=2))
        for rank in (0, 1)
    ]
    whole = list(TrainLoader(spread(Fashion("train"), 40), TRANSFORM, batch_size=8))
    joined = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(halves[0], halves[1], strict=True)]
    assert same(whole, joined)


@pytest.mark.parametrize("channels_last", [False, True])
def test_evaluation_yields_labels_and_indices_in_order(channels_last):
    dataset = spread(Fashion("val"), 30)
    loader = EvalLoader(
        dataset, EvalTransform(img_size=16), batch_size=8, rank=1, world_size=2, channels_last=channels_last
    )
    images, targets, index = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert index.tolist() == list(range(1, 30, 2))
    assert targets.tolist() == [i // 3 for i in index.tolist()]
    assert len(loader) == 2
    single = next(iter(EvalLoader(dataset, EvalTransform(img_size=16), batch_size=30)))[0]
    torch.testing.assert_close(images, single[1::2])


def test_evaluation_distorts_the_normalised_batch():
    dataset = spread(Fashion("val"), 4)
    plain, turned = (
        next(iter(EvalLoader(dataset, EvalTransform(img_size=16, distort=distort), batch_size=4)))[0]
        for distort in ("none", "rot90")
    )
    assert torch.equal(torch.rot90(plain, 1, (2, 3)), turned)


@pytest.fixture
def folder(tmp_path):
    """Six images of two classes; a/1.png is cut off, b/0.png is no image at all."""
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.effect_noise((32, 32), 50).convert("RGB").save(tmp_path / name / f"{i}.png")
    cut = tmp_path / "a" / "1.png"
    cut.write_bytes(cut.read_bytes()[:300])
    (tmp_path / "b" / "0.png").write_bytes(b"no image")
    return tmp_path


def loader_of(folder, **options):
    return TrainLoader(create_dataset("", folder), TrainTransform(img_size=16), batch_size=6, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_replaces_bad_images_by_the_next_and_names_them_once(folder, workers, caplog):
    loader = loader_of(folder, workers=workers, max_bad_images=2)
    caplog.set_level(logging.WARNING)
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        [(images, targets)] = loader
        assert images.shape == (6, 3, 16, 16)
        assert sorted(targets.tolist()) == [0, 0, 0, 1, 1, 1]
    assert sorted(loader.bad_images) == [str(folder / "a" / "1.png"), str(folder / "b" / "0.png")]
    assert len(caplog.records) == 2
    assert "unreadable image" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_more_bad_images_than_allowed_end_training_in_one_line(folder, workers):
    loader = loader_of(folder, workers=workers, max_bad_images=1)
    with pytest.raises(BadImageError, match=r"^unreadable image .*\.png \(.*--max-bad-images$") as caught:
        list(loader)
    assert "\n" not in str(caught.value)
    assert "number 2" in str(caught.value)


def test_a_set_without_any_readable_image_ends_in_an_error(folder):
    for path in folder.glob("*/*.png"):
        path.write_bytes(b"")
    loader = loader_of(folder, max_bad_images=100)
    with pytest.raises(BadImageError, match="none of the 6 training images can be read"):
        list(loader)


def test_evaluation_never_scores_a_bad_image(folder):
    dataset = create_dataset("", folder, "val")
    with pytest.raises(BadImageError, match=r"a/1\.png"):
        list(EvalLoader(dataset, EvalTransform(img_size=16), batch_size=4))
    loader = EvalLoader(dataset, EvalTransform(img_size=16), batch_size=1, max_bad_images=2)
    read = [(int(target), int(index)) for _, target, index in loader]
    assert read == [(0, 0), (0, 2), (1, 4), (1, 5)]
    assert len(loader.bad_images) == 2


def test_a_loader_that_is_alive_at_exit_does_not_hold_the_process():
    script = """
from test_loaders import TRANSFORM, Fashion, spread, TrainLoader
loader = TrainLoader(spread(Fashion("train"), 40), TRANSFORM, batch_size=8, workers=1)
loader.set_epoch(0)
batches = iter(loader)
next(batches)
"""
    child = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=240
    )
    assert child.returncode == 0, child.stderr
