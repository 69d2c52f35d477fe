"""Images to take ranges and statistics from: a part of a set, cut as the network that they are for says."""

from collections.abc import Mapping
from typing import Any

from timm.data import IterableImageDataset
from torch import Tensor

from zoo.data.datasets import create_dataset
from zoo.data.image_sets import ImageSet, spread
from zoo.data.loaders import EvalLoader
from zoo.data.transforms import EvalTransform


def calibration_images(
    dataset: str, data_dir: str | None, split: str, num_images: int, preprocessing: Mapping[str, Any], img_size: int
) -> list[Tensor]:
    """Load at most `num_images` images at even distances over a set, normalised, in batches (N, 3, img_size, img_size).

    Args:
        preprocessing: What `zoo.network.preprocessing` says of the network.

    Raises:
        ValueError: The set is a stream, which cannot be sampled evenly; or there are no images.
    """
    images = create_dataset(dataset, data_dir, split)
    if not isinstance(images, ImageSet):
        raise ValueError(f"--dataset {dataset}: a stream cannot be sampled evenly; use a folder")
    return [batch[0] for batch in _loader(spread(images, num_images), preprocessing, img_size)]


def labelled_images(dataset: str, data_dir: str | None, preprocessing: Mapping[str, Any], img_size: int) -> EvalLoader:
    """Load the validation split of a set, normalised: batches (images, targets, index), anew at each iteration."""
    return _loader(create_dataset(dataset, data_dir, "validation"), preprocessing, img_size)


def _loader(images: ImageSet | IterableImageDataset, preprocessing: Mapping[str, Any], img_size: int) -> EvalLoader:
    cut = {key: value for key, value in preprocessing.items() if key != "input_size"}
    return EvalLoader(images, EvalTransform(img_size=img_size, **cut), batch_size=32)
