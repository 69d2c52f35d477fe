"""Which images a process reads in which step of training: it can resume, and every process agrees on it."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from zoo.data.seeding import derive_seed

SampleKey = tuple[int, int]
"""(epoch, image index): all that a worker needs to know to augment an image"""


class TrainBatches(Sampler[list[SampleKey]]):
    """A seeded permutation per epoch, cut into global batches, of which each process takes its part.

    Step s of an epoch is permutation[s·G : (s+1)·G] with G = world_size · batch_size; process r takes the
    r-th `batch_size` of it. So the images of a step, and even their order, do not depend on the number of
    processes. The last, incomplete global batch is left out.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        global_batch = batch_size * world_size
        if num_images < global_batch:
            raise ValueError(
                f"the training set has {num_images} images, fewer than one step of {global_batch}: lower --batch-size"
            )
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.num_batches = num_images // global_batch
        self.epoch = self.start_batch = 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the permutation, and the step to begin at."""
        if not 0 <= start_batch <= self.num_batches:
            raise ValueError(f"start_batch is {start_batch}, but an epoch has {self.num_batches} batches")
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        return self.num_batches - self.start_batch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch = self.epoch
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        order = torch.randperm(self.num_images, generator=generator)
        for step in range(self.start_batch, self.num_batches):
            first = (step * self.world_size + self.rank) * self.batch_size
            yield [(epoch, index) for index in order[first : first + self.batch_size].tolist()]
