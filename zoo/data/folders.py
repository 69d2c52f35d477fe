"""Folders and tar files of images: one folder per class, in one folder (or tar file) per split."""

import os
from pathlib import Path
from typing import Any

from timm.data.readers import create_reader
from timm.utils import natural_key

from zoo.data.image_sets import ImageSet
from zoo.data.readers import ReaderImages

SPLIT_NAMES = {"train": ("train", "training"), "validation": ("validation", "val", "valid")}


def open_folder(root: Path, split: str, reader_options: dict[str, Any]) -> ImageSet:
    """The images of one split of `root`; labels number the class folders of the training split, if there is
    one.

    Raises:
        ValueError: no such folder or split, not readable, no images, images outside class folders, or a class
            that the training split does not have; one line.
    """
    source = find_split(root, split)
    images = _read(source, reader_options)
    if source.is_file() or reader_options.get("class_map"):
        return images
    assert images.classes is not None
    if "" in images.classes:
        raise ValueError(f"{source} holds images outside class folders: put each into a folder named by its class")
    training = source if split in SPLIT_NAMES["train"] else _existing(root, SPLIT_NAMES["train"]) or source
    if not training.is_dir():
        return images
    # The reader numbers the classes it meets. A split without images of one class would number the rest
    # otherwise.
    classes = sorted((entry.name for entry in training.iterdir() if entry.is_dir()), key=natural_key)
    unknown = set(images.classes) - set(classes)
    if unknown:
        raise ValueError(f"{source} has a class {min(unknown)!r} without a folder {training / min(unknown)}")
    if len(classes) == len(images.classes):
        return images
    return _read(source, {**reader_options, "class_map": {name: label for label, name in enumerate(classes)}})


def find_split(root: Path, split: str) -> Path:
    """The folder or tar file of a split under `root`; `root` itself if it holds no split at all.

    Raises:
        ValueError: `root` is missing or unreadable, or holds other splits but not this one.
    """
    if not root.exists():
        raise ValueError(f"no such data folder: {root}; give another with --data-dir")
    if root.is_file():
        return root
    _check_readable(root)
    names = next((names for names in SPLIT_NAMES.values() if split in names), (split,))
    found = _existing(root, names)
    if found is not None:
        return found
    others = _existing(root, tuple(name for names in SPLIT_NAMES.values() for name in names))
    if others is not None or split not in (name for names in SPLIT_NAMES.values() for name in names):
        raise ValueError(f"no split {split!r} in {root}: looked for {', '.join(f'{name}/' for name in names)}")
    return root


def _existing(root: Path, names: tuple[str, ...]) -> Path | None:
    """The first folder or tar file with one of these names."""
    candidates = (root / f"{name}{suffix}" for name in names for suffix in ("", ".tar"))
    return next((path for path in candidates if path.exists()), None)


def _read(source: Path, reader_options: dict[str, Any]) -> ReaderImages:
    if source.is_dir():
        for folder in (source, *(entry for entry in source.iterdir() if entry.is_dir())):
            _check_readable(folder)
    try:
        return ReaderImages(create_reader("", root=str(source), **reader_options))
    except (RuntimeError, ValueError) as error:  # timm's "Found 0 images", and zip(*[]) over an empty tar
        raise ValueError(
            f"no images in {source}: one folder per class with .jpg, .jpeg or .png files in it is wanted"
        ) from error


def _check_readable(folder: Path) -> None:
    # A walk over a folder that may not be listed finds nothing, silently.
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ValueError(f"data folder {folder} is not readable: check its permissions")
