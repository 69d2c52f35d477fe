"""Streaming datasets: timm's IterableImageDataset over a reader without random access."""

import pytest
import torch
from timm.data import IterableImageDataset

from zoo.data import EvalLoader, EvalTransform, TrainLoader, TrainTransform
from zoo.data.fashion import Fashion


class EveryHundredth:
    """A reader of 20 validation images, two of each class, that turns its order by the epoch."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 20

    def __iter__(self):
        images = Fashion("val")
        for position in range(20):
            yield images[(position + self.epoch) % 20 * 100]


def stream() -> IterableImageDataset:
    return IterableImageDataset(None, reader=EveryHundredth())


def train(epoch: int, start: int = 0, rank: int = 0):
    loader = TrainLoader(stream(), TrainTransform(img_size=16, reprob=1.0), batch_size=6, seed=1, rank=rank)
    loader.set_epoch(epoch, start)
    assert len(loader) == 3
    return list(loader)


def test_a_stream_trains_in_its_readers_order_and_drops_the_rest():
    targets = torch.cat([targets for _, targets in train(epoch=2)])
    assert targets.tolist() == [(position + 2) % 20 * 100 // 200 for position in range(18)]


def test_a_stream_resumes_in_the_middle_with_the_same_images():
    whole, rest = train(epoch=1), train(epoch=1, start=2)
    assert len(rest) == 1
    assert torch.equal(whole[2][0], rest[0][0])
    assert torch.equal(whole[2][1], rest[0][1])


@pytest.mark.parametrize("other", [{"epoch": 1}, {"epoch": 0, "rank": 1}])
def test_augmentation_of_a_stream_differs_between_epochs_and_processes(other):
    assert not torch.equal(train(epoch=0)[0][0], train(**other)[0][0])


def test_evaluation_of_a_stream_yields_every_image_with_a_negative_index():
    batches = list(EvalLoader(stream(), EvalTransform(img_size=16), batch_size=8))
    assert [len(targets) for _, targets, _ in batches] == [8, 8, 4]
    index = torch.cat([index for _, _, index in batches])
    assert index.tolist() == list(range(-1, -21, -1))
