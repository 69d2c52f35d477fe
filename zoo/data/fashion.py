"""The bundled images: a balanced subset of Fashion-MNIST, so that everything runs without a download.

5,000 training images (the first 500 of each class of the official training set) and 2,000 validation images
(the first 200 of each class of the official test set), 28×28 grey, MIT licence (`bundled/LICENSE`). Each
split is one PNG sheet of 100 columns, class after class, so an image's label is its index divided by the
images per class.

Figures on this subset are comparable among themselves only, not with published Fashion-MNIST results.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from zoo.data.image_sets import ImageSet

FOLDER = Path(__file__).resolve().parent / "bundled"
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
IMAGES_PER_CLASS = {"train": 500, "val": 200}
SIZE, COLUMNS = 28, 100


def sheet_to_images(sheet: np.ndarray) -> np.ndarray:
    """Cut a sheet (rows · 28, 100 · 28) into its images (rows · 100, 28, 28), row by row."""
    return sheet.reshape(-1, SIZE, COLUMNS, SIZE).swapaxes(1, 2).reshape(-1, SIZE, SIZE)


def images_to_sheet(images: np.ndarray) -> np.ndarray:
    """The inverse of `sheet_to_images`."""
    return images.reshape(-1, COLUMNS, SIZE, SIZE).swapaxes(1, 2).reshape(-1, COLUMNS * SIZE)


class Fashion(ImageSet):
    """One split ("train" or "val") of the bundled images, as RGB."""

    classes = CLASSES

    def __init__(self, split: str) -> None:
        self.split = split
        with Image.open(FOLDER / f"fashion_{split}.png") as sheet:
            self.items = sheet_to_images(np.asarray(sheet))

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.items[index]).convert("RGB"), index // IMAGES_PER_CLASS[self.split]

    def filename(self, index: int) -> str:
        return f"fashion_{self.split}.png[{index}]"
