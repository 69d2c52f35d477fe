"""Datasets: labelled images with an index, and an error where one cannot be read."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch.utils.data import Dataset


class BadImageError(ValueError):
    """More images could not be read than the user allows."""


class ImageSet(ABC, Dataset[tuple[Image.Image, int]]):
    """Labelled images with an index. Reading an unreadable one raises one of `zoo.runtime.pictures.UNREADABLE`."""

    items: Any
    """what has one item an image, and a length"""
    classes: tuple[str, ...] | None = None
    """names of the classes in the order of their labels, if the source knows them"""

    def __len__(self) -> int:
        return len(self.items)

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """The image as RGB, and its label."""

    @abstractmethod
    def filename(self, index: int) -> str:
        """Name an image for a message."""


class Selection(ImageSet):
    """Some images of a set."""

    def __init__(self, dataset: ImageSet, indices: Sequence[int]) -> None:
        self.dataset, self.items, self.classes = dataset, indices, dataset.classes

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.dataset[self.items[index]]

    def filename(self, index: int) -> str:
        return self.dataset.filename(self.items[index])


def spread(dataset: ImageSet, num_images: int) -> ImageSet:
    """At most `num_images` images at even distances, so a set that is sorted by class keeps its balance.

    Raises: ValueError if `num_images` is below 1.
    """
    if num_images < 1:
        raise ValueError(f"the number of images must be at least 1, got {num_images}")
    size = len(dataset)
    if num_images >= size:
        return dataset
    return Selection(dataset, [i * size // num_images for i in range(num_images)])
