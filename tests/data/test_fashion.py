"""The bundled images are what their documentation says."""

import hashlib

import numpy as np
import pytest

from zoo.data import create_dataset
from zoo.data.fashion import CLASSES, Fashion, images_to_sheet, sheet_to_images


@pytest.mark.parametrize(
    "split, count, per_class, digest",
    [
        ("train", 5000, 500, "4140a00a749e1f61e28928789f0c1a40d186ebcb94e163107591e25173a52f72"),
        ("validation", 2000, 200, "80f041a1db53aeefce90d32bb6094e616abf55eed82a9c247b6c2a44a773acf7"),
    ],
)
def test_each_split_is_balanced_and_unchanged(split, count, per_class, digest):
    dataset = create_dataset("fashion", split=split)
    assert isinstance(dataset, Fashion)
    labels = [dataset[index][1] for index in range(len(dataset))]
    assert len(dataset) == count
    assert np.bincount(labels).tolist() == [per_class] * 10
    assert hashlib.sha256(dataset.items.tobytes()).hexdigest() == digest


def test_an_image_is_rgb_and_equals_its_place_in_the_sheet():
    dataset = create_dataset("zoo/fashion", split="val")
    assert isinstance(dataset, Fashion)
    image, label = dataset[1234]
    assert (image.mode, image.size, label, CLASSES[label]) == ("RGB", (28, 28), 6, "Shirt")
    sheet = images_to_sheet(dataset.items)
    assert sheet.shape == (20 * 28, 100 * 28)
    tile = sheet[12 * 28 : 13 * 28, 34 * 28 : 35 * 28]
    assert np.array_equal(np.asarray(image), np.stack([tile] * 3, axis=-1))


def test_cutting_undoes_arranging():
    images = np.random.default_rng(0).integers(0, 256, (300, 28, 28), dtype=np.uint8)
    assert np.array_equal(sheet_to_images(images_to_sheet(images)), images)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"no split 'test', only train and validation"):
        create_dataset("fashion", split="test")
