"""Loaders: from a dataset and a transform to normalised batches on the device."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from timm.data import IterableImageDataset
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.data.batches import ImageAugment, Normalize
from zoo.data.image_sets import BadImageError, ImageSet
from zoo.data.samplers import TrainBatches
from zoo.data.samples import BadImage, Batch, MapSamples, StreamSamples, collate, leave_signals_to_main
from zoo.data.seeding import derive_seed, seeded
from zoo.data.transforms import DISTORTIONS, EvalTransform, TrainTransform

logger = logging.getLogger(__name__)
Mixup = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How batches are read, in training as in evaluation.

    batch_size: Images per process. workers: Processes that read; 0: this one. rank, world_size: This process among
    those that share the images. max_bad_images: Unreadable ones that this process may meet. device, channels_last:
    Where the images go, and in which order of memory.
    """

    batch_size: int
    workers: int = 0
    rank: int = 0
    world_size: int = 1
    max_bad_images: int = 0
    device: torch.device | str = "cpu"
    channels_last: bool = False


class _Loader:
    """What training and evaluation share: workers that read, normalising, and an account of what cannot be read."""

    def __init__(
        self,
        dataset: ImageSet | IterableImageDataset,
        transform: TrainTransform | EvalTransform,
        reading: Reading,
        seed: int,
        attempts: int,
        **batching: Any,
    ) -> None:
        device, workers = torch.device(reading.device), reading.workers
        if isinstance(dataset, IterableImageDataset):
            dataset.set_loader_cfg(num_workers=workers)  # its length depends on it
            self.samples = StreamSamples(dataset, transform.build(), seed)
        else:
            self.samples = MapSamples(dataset, transform.build(), seed, attempts)
        self.max_bad_images = reading.max_bad_images
        self.bad_images: dict[str, str] = {}
        """unreadable images met so far in this process: name → why"""
        self.normalize = Normalize(transform.mean, transform.std, device, reading.channels_last)
        self.fetch = DataLoader(
            self.samples,
            num_workers=workers,
            persistent_workers=workers > 0 and isinstance(self.samples, MapSamples),
            worker_init_fn=leave_signals_to_main,
            collate_fn=collate,
            pin_memory=device.type == "cuda",
            **batching,
        )

    def read(self, start: int = 0, end: int | None = None) -> Iterator[Batch]:
        """The batches as read; a stream, which cannot begin in the middle, is read on to where that is."""
        streams = isinstance(self.samples, StreamSamples)
        for batch in islice(read_stream(self.fetch), start, end) if streams else self.fetch:
            account(batch.bad, self.bad_images, self.max_bad_images)
            yield batch


class TrainLoader(_Loader):
    """Yields training batches: images float32 (B, 3, H, W) normalised, targets int64 (B,), on `device`.

    `reading` are `Reading`'s fields. Step s of an epoch reads the same world_size · batch_size images however many
    processes share them, and each image looks the same. The last, incomplete global batch is left out.

    Call `set_epoch(epoch, start_batch=0)` before iterating; `len(loader)` is the number of batches of a whole
    epoch. `mixup` is timm's `Mixup` or anything (images, targets) → (images, targets); it runs seeded by the
    step. An unreadable image is replaced by the next readable one, named in a warning and kept in `bad_images`.

    A streaming dataset (wds/, hfids/, tfds/) has no index: its order is the reader's, its augmentation a
    function of (seed, epoch, worker, position), and `start_batch` reads and drops what it leaves out.

    Raises:
        ValueError: the dataset is smaller than one global batch.
        BadImageError: while iterating, on more than `max_bad_images` unreadable images in this process.
    """

    def __init__(
        self,
        dataset: ImageSet | IterableImageDataset,
        transform: TrainTransform,
        *,
        seed: int = 0,
        mixup: Mixup | None = None,
        **reading: Any,
    ) -> None:
        how = Reading(**reading)
        if isinstance(dataset, IterableImageDataset):  # each process reads its own shards: nothing is shared out here
            seed = derive_seed(seed, how.rank)
            self.batches = TrainBatches(len(dataset), how.batch_size, seed)
            batching: dict[str, Any] = {"batch_size": how.batch_size, "drop_last": True}
        else:
            self.batches = TrainBatches(len(dataset), how.batch_size, seed, how.rank, how.world_size)
            batching = {"batch_sampler": self.batches}
        attempts = min(how.max_bad_images + 1, len(dataset))
        super().__init__(dataset, transform, how, seed, attempts, **batching)
        self.augment, self.mixup, self.mix_key = ImageAugment(transform, seed), mixup, (seed, how.rank)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch of the next iteration, and the batch it begins with."""
        self.batches.set_epoch(epoch, start_batch)
        if isinstance(self.samples, StreamSamples):
            self.samples.set_epoch(epoch)
            # Workers are seeded from it, and some readers shuffle by their worker's seed.
            self.fetch.generator = torch.Generator().manual_seed(derive_seed(*self.mix_key, epoch))

    def __len__(self) -> int:
        """Batches of a whole epoch in this process, wherever the next iteration begins."""
        return self.batches.num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, start, end = self.batches.epoch, self.batches.start_batch, self.batches.num_batches
        done = start
        for step, batch in enumerate(self.read(start, end), start):
            if len(batch.index) == 0:
                raise BadImageError(f"none of the {self.batches.num_images} training images can be read")
            images = self.normalize(batch.images)
            targets = batch.targets.to(images.device, non_blocking=True)
            self.augment(images, epoch, batch.index)
            if self.mixup is not None:
                with seeded(*self.mix_key, epoch, step):
                    images, targets = self.mixup(images, targets)
            yield images, targets
            done = step + 1
        if done < end:
            raise ValueError(
                f"the training stream ended after {done} of {end} batches: it needs a shard for each worker of each "
                "process (lower --workers), and as many images as it is said to have (--train-num-samples)"
            )


class EvalLoader(_Loader):
    """Yields evaluation batches: (images, targets, index), the first two as in training, index int64 on the CPU.

    `reading` are `Reading`'s fields.

    Process r of w gets the images r, r + w, …: together each image exactly once, without padding, so
    processes may differ by one batch and nothing inside the loop may wait for the others. `index` is negative for
    streaming datasets.

    An unreadable image is never scored: it is left out, named in a warning and kept in `bad_images`.

    Raises:
        BadImageError: while iterating, on more than `max_bad_images` unreadable images in this process.
    """

    def __init__(self, dataset: ImageSet | IterableImageDataset, transform: EvalTransform, **reading: Any) -> None:
        how = Reading(**reading)
        keys = None  # of a stream, which each process has its own part of
        if not isinstance(dataset, IterableImageDataset):
            keys = [(0, index) for index in range(how.rank, len(dataset), how.world_size)]
        super().__init__(dataset, transform, how, seed=0, attempts=1, batch_size=how.batch_size, sampler=keys)
        self.distort = DISTORTIONS[transform.distort]

    def __len__(self) -> int:
        return len(self.fetch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for batch in self.read():
            if len(batch.index) > 0:
                images = self.distort(self.normalize(batch.images))
                yield images, batch.targets.to(images.device, non_blocking=True), batch.index


def read_stream(fetch: DataLoader) -> Iterator[Batch]:
    """The batches of a stream.

    Raises:
        ValueError: Its reader failed, in a worker or here: what it said last.
    """
    try:
        yield from fetch
    except (RuntimeError, OSError) as error:
        if str(error).startswith("DataLoader worker"):  # it did not fail, it was killed
            raise
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ValueError(f"the stream of images failed: {last}") from error


def account(new: tuple[BadImage, ...], known: dict[str, str], limit: int) -> None:
    """Enter unreadable images into `known`, warning once for each.

    Raises:
        BadImageError: `known` has grown beyond `limit`.
    """
    for name, reason in new:
        if name in known:
            continue
        known[name] = reason
        if len(known) > limit:
            raise BadImageError(
                f"unreadable image {name} ({reason}), number {len(known)}: repair or remove it, "
                f"or allow more than {limit} with --max-bad-images"
            )
        logger.warning("unreadable image %s (%s), number %d of at most %d", name, reason, len(known), limit)
