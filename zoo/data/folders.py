"""Folders and tar files of images: one folder per class, in one folder (or tar file) per split."""

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NoReturn

from timm.data.readers import create_reader
from timm.data.readers.img_extensions import get_img_extensions
from timm.utils import natural_key

from zoo.data.image_sets import ImageSet
from zoo.data.readers import FolderImages, ReaderImages

IMAGE_SUFFIXES = get_img_extensions(as_set=True)
SPLIT_NAMES = {"train": ("train", "training"), "validation": ("validation", "val", "valid")}


def open_folder(root: Path, split: str) -> ImageSet:
    """The images of one split of `root`; labels number the class folders of the training split, if there is
    one.

    An image's class is the folder of `source` that it lies in, at any depth. Links to class folders and to images
    are followed, links deeper down are not: they could lead in circles.

    Raises:
        ValueError: no such folder or split, not readable, no images, images outside class folders, or a class
            that the training split does not have; one line.
    """
    source = find_split(root, split)
    if not source.is_dir():
        return _open_tar(source)
    files = [(path, folder.name) for folder in _class_folders(source) for path in _image_files(folder)]
    if not files:
        raise _no_images(source)
    training = source if split in SPLIT_NAMES["train"] else _existing(root, SPLIT_NAMES["train"]) or source
    # All class folders count: a split without images of one class would number the rest otherwise.
    names = {folder.name for folder in _class_folders(training)} if training.is_dir() else {name for _, name in files}
    unknown = {name for _, name in files} - names
    if unknown:
        raise ValueError(f"{source} has a class {min(unknown)!r} without a folder {training / min(unknown)}")
    classes = tuple(sorted(names, key=natural_key))
    labels = {name: label for label, name in enumerate(classes)}
    files.sort(key=lambda file: natural_key(file[0]))
    return FolderImages([(path, labels[name]) for path, name in files], classes)


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
    if found := _existing(root, names):
        return found
    usual = tuple(chain(*SPLIT_NAMES.values()))
    if split not in usual or _existing(root, usual):
        raise ValueError(f"no split {split!r} in {root}: looked for {', '.join(f'{name}/' for name in names)}")
    return root


def _existing(root: Path, names: tuple[str, ...]) -> Path | None:
    """The first folder or tar file with one of these names."""
    candidates = (root / f"{name}{suffix}" for name in names for suffix in ("", ".tar"))
    return next((path for path in candidates if path.exists()), None)


def _open_tar(source: Path) -> ImageSet:
    try:
        return ReaderImages(create_reader("", root=str(source)))
    except (RuntimeError, ValueError) as error:  # timm's "Found 0 images", and zip(*[]) over an empty tar
        raise _no_images(source) from error


def _no_images(source: Path) -> ValueError:
    return ValueError(f"no images in {source}: one folder per class with .jpg, .jpeg or .png files in it is wanted")


def _class_folders(source: Path) -> list[Path]:
    """Raises: ValueError for an image that lies beside them."""
    _check_readable(source)
    entries = list(source.iterdir())
    if any(_is_image(entry.name) for entry in entries if not entry.is_dir()):
        raise ValueError(f"{source} holds images outside class folders: put each into a folder named by its class")
    return [entry for entry in entries if entry.is_dir()]


def _image_files(folder: Path) -> Iterator[str]:
    _check_readable(folder)

    def fail(error: OSError) -> NoReturn:  # a walk leaves out what it cannot list, silently
        raise ValueError(f"data folder {error.filename} cannot be listed: {error.strerror}") from error

    for inside, _, names in os.walk(folder, onerror=fail):
        yield from (os.path.join(inside, name) for name in names if _is_image(name))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _check_readable(folder: Path) -> None:
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ValueError(f"data folder {folder} is not readable: check its permissions")
