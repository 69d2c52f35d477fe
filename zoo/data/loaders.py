"""Loaders: from a dataset and a transform to normalised batches on the device."""

import logging
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from timm.data import IterableImageDataset
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.data.batches import ImageAugment, Normalize
from zoo.data.image_sets import BadImageError, ImageSet
from zoo.data.samplers import EvalBatches, TrainBatches
from zoo.data.samples import BadImage, Batch, MapSamples, StreamSamples, collate, leave_signals_to_main
from zoo.data.seeding import derive_seed, seeded
from zoo.data.transforms import DISTORTIONS, EvalTransform, TrainTransform

logger = logging.getLogger(__name__)
Mixup = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class TrainLoader:
    """Yields (images, targets) of one epoch; made by `train_loader`."""

    def __init__(
        self,
        fetch: DataLoader,
        batches: TrainBatches,
        normalize: Normalize,
        augment: ImageAugment,
        mixup: Mixup | None,
        mix_key: tuple[int, ...],
        max_bad_images: int,
    ) -> None:
        self.fetch, self.batches = fetch, batches
        self.normalize, self.augment = normalize, augment
        self.mixup, self.mix_key = mixup, mix_key
        self.max_bad_images = max_bad_images
        self.bad_images: dict[str, str] = {}
        """unreadable images met so far in this process: name → why"""

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch of the next iteration, and the batch it begins with."""
        self.batches.set_epoch(epoch, start_batch)
        if isinstance(self.fetch.dataset, StreamSamples):
            self.fetch.dataset.set_epoch(epoch)
            # Workers are seeded from it, and some readers shuffle by their worker's seed.
            self.fetch.generator = torch.Generator().manual_seed(derive_seed(*self.mix_key, epoch))

    def __len__(self) -> int:
        """Batches of a whole epoch in this process, wherever the next iteration begins."""
        return self.batches.num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, start, end = self.batches.epoch, self.batches.start_batch, self.batches.num_batches
        if isinstance(self.fetch.dataset, StreamSamples):  # it cannot begin in the middle: read on to where we were
            fetched = islice(read_stream(self.fetch), start, end)
        else:
            fetched = self.fetch
        done = start
        for step, batch in enumerate(fetched, start):
            account(batch.bad, self.bad_images, self.max_bad_images)
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


class EvalLoader:
    """Yields (images, targets, index) of this process's share, in order; made by `eval_loader`."""

    def __init__(
        self,
        fetch: DataLoader,
        normalize: Normalize,
        distort: Callable[[Tensor], Tensor],
        max_bad_images: int,
    ) -> None:
        self.fetch, self.normalize, self.distort = fetch, normalize, distort
        self.max_bad_images = max_bad_images
        self.bad_images: dict[str, str] = {}
        """unreadable images met so far in this process, none of them scored: name → why"""

    def __len__(self) -> int:
        return len(self.fetch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        streams = isinstance(self.fetch.dataset, StreamSamples)
        for batch in read_stream(self.fetch) if streams else self.fetch:
            account(batch.bad, self.bad_images, self.max_bad_images)
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


def train_loader(
    dataset: ImageSet | IterableImageDataset,
    transform: TrainTransform,
    *,
    batch_size: int,
    workers: int = 0,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    mixup: Mixup | None = None,
    max_bad_images: int = 0,
    device: torch.device | str = "cpu",
    channels_last: bool = False,
) -> TrainLoader:
    """A loader of training batches: images float32 (B, 3, H, W) normalised, targets int64 (B,), on `device`.

    `batch_size` is per process. Step s of an epoch reads the same world_size · batch_size images however many
    processes share them, and each image looks the same. The last, incomplete global batch is left out.

    Call `set_epoch(epoch, start_batch=0)` before iterating; `len(loader)` is the number of batches of a whole
    epoch. `mixup` is timm's `Mixup` or anything (images, targets) → (images, targets); it runs seeded by the
    step. An unreadable image is replaced by the next readable one, named in a warning and kept in
    `loader.bad_images`.

    A streaming dataset (wds/, hfids/, tfds/) has no index: its order is the reader's, its augmentation a
    function of (seed, epoch, worker, position), and `start_batch` reads and drops what it leaves out.

    Raises:
        ValueError: the dataset is smaller than one global batch.
        BadImageError: while iterating, on more than `max_bad_images` unreadable images in this process.
    """
    device = torch.device(device)
    if isinstance(dataset, IterableImageDataset):
        seed = derive_seed(seed, rank)  # each process reads its own shards: nothing is shared out here
        batches = TrainBatches(len(dataset), batch_size, seed)
        fetch = _stream(dataset, transform, seed, batch_size, True, workers, device)
    else:
        batches = TrainBatches(len(dataset), batch_size, seed, rank, world_size)
        attempts = min(max_bad_images + 1, len(dataset))
        fetch = _fetch(MapSamples(dataset, transform.build(), seed, attempts), batches, workers, device)
    normalize = Normalize(transform.mean, transform.std, device, channels_last)
    augment = ImageAugment(transform, seed)
    return TrainLoader(fetch, batches, normalize, augment, mixup, (seed, rank), max_bad_images)


def eval_loader(
    dataset: ImageSet | IterableImageDataset,
    transform: EvalTransform,
    *,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    max_bad_images: int = 0,
    device: torch.device | str = "cpu",
    channels_last: bool = False,
) -> EvalLoader:
    """A loader of evaluation batches: (images, targets, index), the first two as in training, index int64 on
    the CPU.

    Process r of w gets the images r, r + w, …: together each image exactly once, without padding, so
    processes may differ by one batch and nothing inside the loop may wait for the others. `index` is -1 for
    streaming datasets.

    An unreadable image is never scored: it is left out, named in a warning and kept in `loader.bad_images`.

    Raises:
        BadImageError: while iterating, on more than `max_bad_images` unreadable images in this process.
    """
    device = torch.device(device)
    if isinstance(dataset, IterableImageDataset):
        fetch = _stream(dataset, transform, 0, batch_size, False, workers, device)
    else:
        batches = EvalBatches(len(dataset), batch_size, rank, world_size)
        fetch = _fetch(MapSamples(dataset, transform.build(), 0, 1), batches, workers, device)
    normalize = Normalize(transform.mean, transform.std, device, channels_last)
    return EvalLoader(fetch, normalize, DISTORTIONS[transform.distort], max_bad_images)


def _fetch(samples: MapSamples, batches: TrainBatches | EvalBatches, workers: int, device: torch.device) -> DataLoader:
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=leave_signals_to_main,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )


def _stream(
    dataset: IterableImageDataset,
    transform: TrainTransform | EvalTransform,
    seed: int,
    batch_size: int,
    drop_last: bool,
    workers: int,
    device: torch.device,
) -> DataLoader:
    dataset.set_loader_cfg(num_workers=workers)  # its length depends on it
    return DataLoader(
        StreamSamples(dataset, transform.build(), seed),
        batch_size=batch_size,
        drop_last=drop_last,
        num_workers=workers,
        worker_init_fn=leave_signals_to_main,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )
