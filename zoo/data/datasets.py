"""Datasets by name: bundled images, folders, and everything that timm reads."""

import difflib
from pathlib import Path
from typing import Any

import timm.data
from timm.data import IterableImageDataset

from zoo.data.fashion import Fashion
from zoo.data.folders import SPLIT_NAMES, open_folder
from zoo.data.image_sets import ImageSet
from zoo.data.readers import ReaderImages, TorchvisionImages

FOLDER_NAMES = ("", "folder", "tar")
TIMM_PREFIXES = ("torch", "hfds", "hfids", "wds", "tfds")


def create_dataset(
    name: str = "", root: str | Path | None = None, split: str = "train", **reader_options: Any
) -> ImageSet | IterableImageDataset:
    """A dataset of (PIL RGB image, label), without transforms.

    Args:
        name: "fashion" (bundled; also "zoo/fashion"); "", "folder" or "tar" for files at `root`; or with
            timm's prefixes "torch/cifar10", "hfds/…", "hfids/…", "wds/…", "tfds/…".
        root: for files: what holds the split as a folder or tar file (train, training; validation, val,
            valid) with one folder per class in it; a root without any of these is itself the split. For
            timm's prefixes: where the data lies.
        split: "train", "validation" or "val"; a folder may hold others ("test"), as may the prefixes.
        reader_options: passed to timm's reader or `timm.data.create_dataset` (class_map; download, input_key,
            target_key; is_training, batch_size, seed, num_samples for streams).

    Returns:
        An ImageSet, or timm's IterableImageDataset for the streams (hfids, wds, tfds).

    Raises:
        ValueError: no such dataset, root or split, no images, a missing package; one line that says what to
            do.
    """
    name = name.removeprefix("zoo/")
    if name == "fashion":
        return _fashion(split)
    if name in FOLDER_NAMES:
        if root is None:
            raise ValueError("no data: give a folder with --data-dir, or the bundled images with --dataset fashion")
        return open_folder(Path(root), split, reader_options)
    prefix, slash, _ = name.partition("/")
    if slash and prefix.lower() in TIMM_PREFIXES:
        return _from_timm(name, root, split, reader_options)
    known = ["fashion", *(f"{prefix}/…" for prefix in TIMM_PREFIXES)]
    hint = "did you mean 'fashion'?" if difflib.get_close_matches(name, ["fashion"]) else f"known: {', '.join(known)}"
    raise ValueError(f"unknown dataset {name!r}, and a folder needs none, only --data-dir; {hint}")


def _fashion(split: str) -> Fashion:
    if split in SPLIT_NAMES["train"]:
        return Fashion("train")
    if split in SPLIT_NAMES["validation"]:
        return Fashion("val")
    raise ValueError(f"the bundled images have no split {split!r}, only train and validation")


def _from_timm(
    name: str, root: str | Path | None, split: str, options: dict[str, Any]
) -> ImageSet | IterableImageDataset:
    try:
        dataset = timm.data.create_dataset(name, None if root is None else str(root), split, **options)
    except (AssertionError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        # What a reader raises on a missing package, path, split or key is as various as the readers.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"cannot open dataset {name!r}, split {split!r}, at {root}: {reason}") from error
    if isinstance(dataset, IterableImageDataset):
        return dataset
    if isinstance(dataset, timm.data.ImageDataset):
        return ReaderImages(dataset.reader)
    return TorchvisionImages(dataset, name)
