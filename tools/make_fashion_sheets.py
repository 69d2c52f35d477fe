"""Make the two sheets in `bundled/` from the official files of Fashion-MNIST.

apt-get install dataset-fashion-mnist      # or download the four files from the project's page
python tools/make_fashion_sheets.py /usr/share/datasets/fashion-mnist
"""

import gzip
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from zoo.data.fashion import CLASSES, FOLDER, IMAGES_PER_CLASS, SIZE, images_to_sheet

OFFICIAL_NAME = {"train": "train", "val": "t10k"}


def read_official(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) and labels (N,) of a split, from gzipped IDX files (headers of 16 and 8 bytes)."""
    name = OFFICIAL_NAME[split]
    with gzip.open(folder / f"{name}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, SIZE, SIZE)
    with gzip.open(folder / f"{name}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return images, labels


def subset(images: np.ndarray, labels: np.ndarray, per_class: int) -> np.ndarray:
    """The first `per_class` images of every class, class after class."""
    picked = [np.flatnonzero(labels == label)[:per_class] for label in range(len(CLASSES))]
    return images[np.concatenate(picked)]


def main(folder: Path) -> None:
    for split, per_class in IMAGES_PER_CLASS.items():
        sheet = images_to_sheet(subset(*read_official(folder, split), per_class))
        Image.fromarray(sheet).save(FOLDER / f"fashion_{split}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
