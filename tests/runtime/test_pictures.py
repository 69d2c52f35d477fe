"""Pictures are opened whatever their format, and cut as timm's transform for evaluation cuts them."""

import io
import os

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from tests.support.imagenet import PHOTOS
from zoo.runtime import Preparation, open_picture
from zoo.runtime.pictures import UNREADABLE, cut, reason
from zoo.untrusted import typed

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def preparation(size: tuple[int, int] = (64, 64), **options) -> Preparation:
    return Preparation(input_size=(3, *size), mean=MEAN, std=STD, **({"crop_pct": 0.875} | options))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size, crop_pct", [((64, 64), 0.875), ((65, 65), 1.0), ((40, 72), 0.9), ((64, 64), 1.3)])
def test_a_picture_is_cut_as_timm_does_pixel_for_pixel(size, crop_pct, crop_mode, interpolation):
    how = preparation(size, crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation)
    options = {"crop_pct": crop_pct, "crop_mode": crop_mode, "interpolation": interpolation, "mean": MEAN, "std": STD}
    pixels = create_transform((3, *size), use_prefetcher=True, **options)
    normalised = create_transform((3, *size), **options)
    cat = open_picture(PHOTOS / "cat.jpg")
    for image in (cat, cat.rotate(90, expand=True), cat.resize((33, 190)), cat.resize((64, 64)), cat.resize((3, 5))):
        np.testing.assert_array_equal(np.asarray(cut(image, how)).transpose(2, 0, 1), pixels(image).numpy())
        np.testing.assert_allclose(how.batch([image])[0], normalised(image).numpy(), rtol=1e-6, atol=1e-6)


def save(image: Image.Image, format: str, **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, format, **options)
    file.seek(0)
    return file


def test_exif_turns_a_picture_upright():
    image = open_picture(PHOTOS / "cat.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 270 degrees to show
    shown = open_picture(save(image, "PNG", exif=exif))
    assert np.array_equal(shown, image.rotate(270, expand=True))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGBA", "LA"])
def test_every_mode_becomes_rgb(mode):
    red = Image.new("RGB", (8, 8), (250, 10, 10))
    opened = open_picture(Image.merge("LAB", red.split()) if mode == "LAB" else red.convert(mode))
    assert (opened.mode, opened.size) == ("RGB", (8, 8))
    if mode in ("CMYK", "YCbCr", "HSV", "RGBA"):
        assert np.abs(np.asarray(opened, int) - [250, 10, 10]).max() <= 4


def test_a_cmyk_jpeg_keeps_its_colours():
    opened = open_picture(save(Image.new("RGB", (8, 8), (250, 10, 10)).convert("CMYK"), "JPEG"))
    assert np.abs(np.asarray(opened, int) - [250, 10, 10]).max() <= 8


def test_what_is_transparent_is_white():
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    assert np.asarray(open_picture(save(image, "PNG"))).tolist() == [[[255] * 3, [10, 20, 30]]]
    palette = Image.new("P", (1, 1))
    palette.putpalette([0, 0, 0])
    assert np.asarray(open_picture(save(palette, "PNG", transparency=0))).tolist() == [[[255] * 3]]


def test_sixteen_bits_are_scaled_not_clipped():
    deep = Image.fromarray(np.array([[0, 0x4000, 0xFFFF]], np.uint16))
    assert np.asarray(open_picture(save(deep, "PNG")))[0, :, 0].tolist() == [0, 0x40, 0xFF]


def test_what_is_no_picture_is_refused_in_a_few_words(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes()[:9000])
    said = {}
    for name in ("fifo.png", "text.png", "half.jpg", "absent.png"):
        with pytest.raises(UNREADABLE) as caught:
            open_picture(tmp_path / name)
        said[name] = reason(caught.value)
    assert said["fifo.png"] == "not a regular file" and said["text.png"] == "not an image"
    assert said["half.jpg"].startswith("image file is truncated") and said["absent.png"] == "No such file or directory"


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"input_size": [1, 64, 64]}, "input_size"),
        ({"mean": [0.5]}, "mean"),
        ({"std": [1, 1, 0]}, "std"),
        ({"crop_pct": None}, "crop_pct"),
        ({"interpolation": "random"}, "interpolation"),
        ({"class_names": [1]}, "class_names"),
    ],
)
def test_a_preparation_that_no_picture_can_have_is_refused(wrong, message):
    said = {"input_size": [3, 64, 64], "mean": list(MEAN), "std": list(STD), "crop_pct": 1}
    assert typed(Preparation, said).crop_pct == 1
    with pytest.raises(ValueError, match=message):
        typed(Preparation, said | wrong)
