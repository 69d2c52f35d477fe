"""Datasets by name: bundled images, folders, and everything that timm reads."""

import re
from pathlib import Path
from typing import Any

import timm.data
from timm.data import IterableImageDataset

from zoo.data.fashion import Fashion
from zoo.data.folders import SPLIT_NAMES, open_folder
from zoo.data.image_sets import ImageSet
from zoo.data.readers import ReaderImages, TorchvisionImages
from zoo.mishaps import first_line
from zoo.nearest import did_you_mean

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
        reader_options: passed to `timm.data.create_dataset` (download, input_key, target_key; is_training,
            batch_size, seed, num_samples for streams).

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
        return open_folder(Path(root), split)
    prefix, slash, _ = name.partition("/")
    if slash and prefix.lower() in TIMM_PREFIXES:
        return _from_timm(name, root, split, reader_options)
    known = ["fashion", *(f"{prefix}/…" for prefix in TIMM_PREFIXES)]
    hint = did_you_mean(name, ["fashion"], f"known: {', '.join(known)}")
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
    _refuse_commands(name, root, split)
    try:
        dataset = timm.data.create_dataset(name, None if root is None else str(root), split, **options)
    except (AssertionError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        # What a reader raises on a missing package, path, split or key is as various as the readers.
        raise ValueError(f"cannot open dataset {name!r}, split {split!r}, at {root}: {first_line(error)}") from error
    if isinstance(dataset, IterableImageDataset):
        split_info = getattr(dataset.reader, "split_info", None)
        _refuse_commands(*getattr(split_info, "filenames", ()))  # of webdataset's shards, which a file may list
        return dataset
    if isinstance(dataset, timm.data.ImageDataset):
        return ReaderImages(dataset.reader)
    return TorchvisionImages(dataset, name)


def _refuse_commands(*sources: str | Path | None) -> None:
    """Refuse webdataset's `pipe:`, which runs a shell command, however it is spelled.

    webdataset's own `enforce_security` refuses local files too. Raises: ValueError.
    """
    for source in map(str, sources):
        if "pipe:" in re.sub(r"[\s{}\\]", "", source).lower():
            raise ValueError(f"{source!r} runs a command, which no source of images may: unpack it to files first")
