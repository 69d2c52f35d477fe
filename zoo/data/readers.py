"""The indexed sources besides the bundled one: files in folders, timm's readers and torchvision's datasets."""

import os
import stat
from collections.abc import Sequence
from typing import Any

from PIL import Image
from timm.data.readers.reader import Reader

from zoo.data.image_sets import ImageSet


class FolderImages(ImageSet):
    """Image files, each with its label."""

    def __init__(self, files: Sequence[tuple[str, int]], classes: tuple[str, ...]) -> None:
        self.items, self.classes = files, classes

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.items[index]
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO waits for its writer, for ever
            raise OSError("not a regular file")
        with Image.open(path) as image:
            return image.convert("RGB"), label

    def filename(self, index: int) -> str:
        return self.items[index][0]


class ReaderImages(ImageSet):
    """Images behind one of timm's readers: a tar file, or a Hugging Face dataset on disk.

    timm's own dataset replaces an unreadable image by the next one, in validation too; this one lets the
    error out.
    """

    def __init__(self, reader: Reader) -> None:
        self.items = reader
        labels = getattr(reader, "class_name_to_idx", None)  # of tar files
        self.classes = tuple(sorted(labels, key=labels.get)) if labels else None

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        stream, target, *_ = self.items[index]
        with stream, Image.open(stream) as image:
            return image.convert("RGB"), int(target)

    def filename(self, index: int) -> str:
        return self.items.filename(index, absolute=True) or f"image {index}"


class TorchvisionImages(ImageSet):
    """Images of a torchvision dataset (torch/cifar10, …)."""

    def __init__(self, dataset: Any, name: str) -> None:
        self.items, self.name = dataset, name
        classes = getattr(dataset, "classes", None)
        self.classes = tuple(map(str, classes)) if classes else None

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image, target = self.items[index]
        return image.convert("RGB"), int(target)

    def filename(self, index: int) -> str:
        return f"{self.name}[{index}]"
