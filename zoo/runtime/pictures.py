"""Pictures as a network wants them: whatever their format, cut as timm does at test time, normalised."""

from __future__ import annotations

import math
import os
import stat
import struct
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from zoo.checkpoints.schema import MAX_CLASSES, Colour, Deviation, Share, Side
from zoo.mishaps import first_line
from zoo.untrusted import Text

Picture = Image.Image | str | Path | BinaryIO
"""An image, or the file that it is in."""

# What Pillow and tarfile raise on bytes that are no image, or not all of one.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    tarfile.TarError,
    Image.DecompressionBombError,
)


class Preparation(Struct, frozen=True, kw_only=True):
    """How a network wants its images and what it calls their classes, in the words of timm's `pretrained_cfg`.

    input_size: (3, height, width). mean, std: Of red, green, blue in [0, 1]. crop_pct: Share of the resized image that
    the crop keeps. class_names: Empty if they are unknown.

    Raises:
        ValueError: More class names than any network has.
    """

    input_size: tuple[Literal[3], Side, Side]
    mean: tuple[Colour, Colour, Colour]
    std: tuple[Deviation, Deviation, Deviation]
    crop_pct: Share
    crop_mode: Literal["center", "squash", "border"] = "center"
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "bilinear"
    class_names: tuple[Text, ...] = ()

    def __post_init__(self) -> None:
        if len(self.class_names) > MAX_CLASSES:
            raise ValueError(f"more than {MAX_CLASSES:,} class names")

    def batch(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Prepare RGB images: (N, 3, height, width), normalised."""
        pixels = np.stack([np.asarray(cut(image, self)) for image in images]).transpose(0, 3, 1, 2)
        mean, std = (np.array(value, np.float32)[:, None, None] for value in (self.mean, self.std))
        return np.ascontiguousarray((pixels.astype(np.float32) / np.float32(255) - mean) / std)


def open_picture(source: Picture) -> Image.Image:
    """Read an image of any kind as upright RGB: EXIF's orientation applied, what is transparent on white, 16 bits as 8.

    Raises: One of UNREADABLE.
    """
    if isinstance(source, Image.Image):
        return _rgb(source)
    if isinstance(source, str | Path) and not stat.S_ISREG(os.stat(source).st_mode):
        raise OSError("not a regular file")  # opening a FIFO waits for its writer, for ever
    with Image.open(source) as image:
        return _rgb(image)


def reason(error: Exception) -> str:
    """Say in one line why an image could not be read."""
    if isinstance(error, UnidentifiedImageError):  # Pillow's text repeats the path
        return "not an image"
    return (isinstance(error, OSError) and error.strerror) or first_line(error)


def _rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def cut(image: Image.Image, how: Preparation) -> Image.Image:
    """Resize and crop an RGB image as timm's transform for evaluation does, pixel for pixel.

    `center`: the shorter side to input_size / crop_pct, then the middle. `squash`: both sides, whatever the aspect.
    `border`: the longer side, then a border in the mean colour.
    """
    _, height, width = how.input_size
    size = _resized(image.height, image.width, math.floor(height / how.crop_pct), math.floor(width / how.crop_pct), how)
    if size != (image.width, image.height):
        image = image.resize(size, Image.Resampling[how.interpolation.upper()])
    red, green, blue = (round(255 * value) if how.crop_mode == "border" else 0 for value in how.mean)
    canvas = Image.new("RGB", (width, height), (red, green, blue))
    canvas.paste(image, (-_offset(image.width, width), -_offset(image.height, height)))
    return canvas


def _resized(height: int, width: int, to_height: int, to_width: int, how: Preparation) -> tuple[int, int]:
    """The (width, height) that an image is resized to, before it is cropped."""
    if how.crop_mode == "squash":
        return to_width, to_height
    if how.crop_mode == "border" or to_height != to_width:
        ratios = (height / to_height, width / to_width)
        ratio = max(ratios) if how.crop_mode == "border" else min(ratios)
        return round(width / ratio), round(height / ratio)
    if width <= height:
        return to_width, int(to_width * height / width)
    return int(to_height * width / height), to_height


def _offset(size: int, wanted: int) -> int:
    """Where a centred window begins: negative where the image is smaller than it."""
    return -((wanted - size) // 2) if wanted > size else round((size - wanted) / 2)
