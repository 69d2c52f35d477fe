"""The metadata of a file of weights: types and bounds, checked by `zoo.untrusted.typed` when it is read."""

import re
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from zoo.untrusted import Text

MAX_CLASSES, MAX_SIDE = 100_000, 2048
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Classes = Annotated[int, Meta(ge=0, le=MAX_CLASSES)]
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
Share = Annotated[float, Meta(gt=0, le=2)]
Colour = Annotated[float, Meta(ge=-1000, le=1000)]
Deviation = Annotated[float, Meta(gt=0, le=1000)]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming", "random"]


Size = tuple[Annotated[int, Meta(ge=1, le=1024)], Side, Side]


class Images(Struct, omit_defaults=True):
    """How a network wants its images, and what it calls their classes: keys of timm's `pretrained_cfg`.

    Sizes are (channels, height, width); `mean` and `std` have one number per channel.
    """

    input_size: Size | None = None
    test_input_size: Size | None = None
    mean: Annotated[list[Colour], Meta(min_length=1, max_length=1024)] | None = None
    std: Annotated[list[Deviation], Meta(min_length=1, max_length=1024)] | None = None
    crop_pct: Share | None = None
    test_crop_pct: Share | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    interpolation: Interpolation | None = None
    class_names: Annotated[list[Text], Meta(max_length=MAX_CLASSES)] | None = None


class About(Images, omit_defaults=True):
    """Our metadata: `zoo` of a safetensors file, or what a training checkpoint says of its network."""

    model: Name | None = None
    structure: Literal["train", "deployed"] | None = None
    num_classes: Classes | None = None
    block: Name | None = None
    model_kwargs: dict[Name, Any] | None = None
    weights: Name | None = None
    top1: Annotated[float, Meta(ge=0, le=100)] | None = None
    report: dict[str, Any] | None = None


def is_local(model: str) -> bool:
    """Tell whether a name is of a network in an installed package, not of a hub or a folder (`timm/hf-hub:…`)."""
    return re.fullmatch(r"((timm|torchvision)/)?\w[\w.-]*", model) is not None


ELSEWHERE = re.compile("checkpoint|pretrained|weights|cache_dir|device|dtype")
"""Arguments of networks that say where weights come from or go to; those are the file's own, and the command line's."""
LARGEST = 4096


def own_arguments(model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keep the arguments that shape a network, without those that would open another file or connection.

    Raises:
        ValueError: One is no plain setting: a path, an address, or a size that no network has.
    """
    shaping = {key: value for key, value in model_kwargs.items() if not ELSEWHERE.match(key)}
    for key, value in shaping.items():
        if not _is_plain(value):
            raise ValueError(f"model_kwargs: {key}={str(value)[:60]!r} is not for a file to say")
    return shaping


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, str):
        return re.fullmatch(r"[\w.,+ -]{0,200}", value) is not None
    return value is None or (isinstance(value, int | float) and abs(value) <= LARGEST)
