"""Pictures side by side, a caption below each."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

SIDE, LINE, GAP = 160, 15, 6
"""Pixels of a picture, of a line of its caption, and between pictures."""
LINES = 2
MAX_TILES = 100
"""Pictures beyond which nobody looks at each."""


def picture_grid(tiles: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    """Arrange at most MAX_TILES RGB pictures about as many abreast as below each other, small ones enlarged.

    Args:
        tiles: Each with its caption, of which LINES lines are shown.
    """
    tiles = tiles[:MAX_TILES]
    columns = next(n for n in range(1, len(tiles) + 2) if n * n >= len(tiles))
    width, height = SIDE + GAP, SIDE + LINES * LINE + GAP
    page = Image.new("RGB", (columns * width + GAP, -(-len(tiles) // columns) * height + GAP), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), LINE - 4)
    for number, (picture, caption) in enumerate(tiles):
        left, top = GAP + number % columns * width, GAP + number // columns * height
        page.paste(_fitted(picture), (left, top))
        for i, line in enumerate(caption.splitlines()[:LINES]):
            draw.text((left, top + SIDE + i * LINE), _shortened(line, font), "black", font)
    return page


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture in a square, its aspect kept."""
    scale = SIDE / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC)


def _shortened(text: str, font: ImageFont.FreeTypeFont) -> str:
    """The beginning of a line that fits below its picture."""
    if font.getlength(text) <= SIDE:
        return text
    return next(short for n in range(len(text), -1, -1) if font.getlength(short := f"{text[:n]}…") <= SIDE)
