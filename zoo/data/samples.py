"""The work of a loader's worker: read an image, augment it under its own seed, collate a uint8 batch."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import NamedTuple

import torch
from timm.data import IterableImageDataset
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from zoo.data.image_sets import ImageSet
from zoo.data.samplers import SampleKey
from zoo.data.seeding import seeded
from zoo.data.transforms import ImageTransform
from zoo.runtime.pictures import UNREADABLE, reason

BadImage = tuple[str, str]
"""(name of an unreadable image, why)"""


class Sample(NamedTuple):
    """One image, or none if nothing readable was found."""

    image: Tensor | None
    target: int
    index: int
    bad: tuple[BadImage, ...] = ()


class Batch(NamedTuple):
    """Readable images as uint8 (B, 3, H, W) in channels-last memory, targets and index int64 (B,)."""

    images: Tensor
    targets: Tensor
    index: Tensor
    bad: tuple[BadImage, ...]


class MapSamples(Dataset[Sample]):
    """(epoch, index) → augmented image, seeded by (seed, epoch, index) and by nothing else.

    In place of an unreadable image comes the next readable one, after at most `attempts` reads in all.
    """

    def __init__(self, dataset: ImageSet, transform: ImageTransform, seed: int, attempts: int) -> None:
        self.dataset, self.transform, self.seed, self.attempts = dataset, transform, seed, attempts

    def __getitem__(self, key: SampleKey) -> Sample:
        epoch, index = key
        bad: list[BadImage] = []
        for offset in range(self.attempts):
            candidate = (index + offset) % len(self.dataset)
            try:
                image, target = self.dataset[candidate]
            except UNREADABLE as error:
                bad.append((self.dataset.filename(candidate), reason(error)))
                continue
            with seeded(self.seed, epoch, index):
                return Sample(self.transform(image), target, index, tuple(bad))
        return Sample(None, -1, index, tuple(bad))


class StreamSamples(IterableDataset[Sample]):
    """A streaming dataset's images in its reader's order, seeded by (seed, epoch, worker, position).

    Their `index` is a negative number, different for each image of an epoch in this process.
    """

    def __init__(self, dataset: IterableImageDataset, transform: ImageTransform, seed: int) -> None:
        self.dataset, self.transform, self.seed, self.epoch = dataset, transform, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Reseed; timm's readers shuffle by the epoch too."""
        self.epoch = epoch
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Sample]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for position, (image, target) in enumerate(self.dataset):
            index = -1 - worker - workers * position
            with seeded(self.seed, self.epoch, index):
                pixels = self.transform(image.convert("RGB"))
            yield Sample(pixels, int(target), index)


def leave_signals_to_main(worker: int) -> None:
    """Workers outlive a signal to the whole process group: the main process finishes its step, then ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux; elsewhere SIGTERM ends a worker, whoever sent it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_main, daemon=True).start()


def _obey_main() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def collate(samples: list[Sample]) -> Batch:
    """Stack the readable samples; (3, H, W) views of an image's own (H, W, 3) memory stay in that order."""
    readable = [sample for sample in samples if sample.image is not None]
    pixels = [sample.image.permute(1, 2, 0) for sample in readable if sample.image is not None]
    images = torch.stack(pixels) if pixels else torch.empty(0, 0, 0, 3, dtype=torch.uint8)
    return Batch(
        images.permute(0, 3, 1, 2),
        torch.tensor([sample.target for sample in readable], dtype=torch.int64),
        torch.tensor([sample.index for sample in readable], dtype=torch.int64),
        tuple(bad for sample in samples for bad in sample.bad),
    )
