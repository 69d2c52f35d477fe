"""The kinds of values that a setting may have, and the settings that several commands share; read by `zoo.cli.config`.

A command is a dataclass of settings; a field's annotation is one of these, or a plain type, and the docstring under it
is its help. `msgspec.Meta` holds the bounds, what to call them in an error (`description`), and whether the value names
a file that the command will write (`extra`). Nothing here imports torch: a wrong flag is answered at once.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from zoo.cores import PER_CORE, available_cores

MAX_CROWD = PER_CORE * available_cores()
_NUMBER = r"\d+(\.\d+)?"
_POLICIES = "|".join(
    (
        rf"(original|originalr|v0|v0r|3a)(-mstd{_NUMBER})?",
        rf"rand(-(m\d+|mmax\d+|mstd{_NUMBER}|inc[01]|n[1-9]\d*|p{_NUMBER}|t[a-z]+\d*))*",
        rf"augmix(-(m\d+|mstd{_NUMBER}|w[1-9]\d*|d-?\d+|a{_NUMBER}|b[01]))*",
    )
)

Count = Annotated[int, Meta(ge=1)]
NaturalNumber = Annotated[int, Meta(ge=0)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Share = Annotated[float, Meta(ge=0, le=1)]
NonNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Pixels = Annotated[int, Meta(ge=8, le=8192)]
"""Side of an image."""
Threads = Annotated[int, Meta(ge=1, le=MAX_CROWD)]
"""CPU threads of a process: some thousands crash torch."""
Workers = Annotated[int, Meta(ge=0, le=MAX_CROWD)]
"""Processes that load data."""
Device = Annotated[
    str, Meta(pattern=r"^(auto|cpu|(cuda|mps|xpu)(:\d+)?)$", description="auto, cpu, cuda, cuda:N, mps or xpu")
]
Policy = Annotated[
    str, Meta(pattern=f"^({_POLICIES})$", description="a policy in timm's notation, as original or rand-m9-mstd0.5")
]


def _written(*suffixes: str) -> Meta:
    """The path of a file to write, with one of these endings."""
    endings = "|".join(suffix.replace(".", r"\.") for suffix in suffixes)
    return Meta(
        pattern=f"({endings})$", description=f"a name ending in {' or '.join(suffixes)}", extra={"written": True}
    )


AnyFile = Annotated[str, Meta(min_length=1, description="the name of a file", extra={"written": True})]
ResultsFile = Annotated[str, _written(".json", ".csv", ".md")]
TableFile = Annotated[str, _written(".csv", ".png", ".svg", ".pdf")]
JsonFile = Annotated[str, _written(".json")]
PngFile = Annotated[str, _written(".png")]
ReportFile = Annotated[str, _written(".html", ".md", ".csv", ".png")]
SafetensorsFile = Annotated[str, _written(".safetensors")]
ModelFile = Annotated[
    str,
    _written(".onnx", ".xml", ".pt2", ".torchscript", ".ncnn.param", ".mnn", ".tflite", ".pte", ".mlpackage"),
]


def positional(metavar: str, default: Any = MISSING) -> Any:
    """A field that is given without a flag; required if it has no default."""
    return field(default=default, metadata={"positional": metavar})


def flatten(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of all sections in one dict."""
    return {key: value for section in sections.values() for key, value in section.items()}


@dataclass(kw_only=True)
class WeightsFile:
    """How a file of weights is read."""

    allow_nonfinite: bool = False
    """load weights that are NaN or infinite, or negative variances, all the same"""


@dataclass(kw_only=True)
class StoredNetwork(WeightsFile):
    """A network from a checkpoint."""

    checkpoint: str = positional("CHECKPOINT")
    """weights, in any layout and structure"""
    model: str | None = None
    """the network's name, if the checkpoint does not hold it"""
    num_classes: Count | None = None
    """its classes, if the checkpoint does not hold them"""
    ema: bool = False
    """the averaged weights of a training checkpoint"""


@dataclass(kw_only=True)
class CalibrationImages:
    """Images to estimate statistics on."""

    data_dir: str | None = None
    """folder of images, as for validate"""
    dataset: str = ""
    """dataset, as for validate"""
    split: str = "train"
    """its split"""
    calibration_images: Count = 256
    """how many of its images"""


@dataclass(kw_only=True)
class Augmentation:
    """How training images are changed at random; the names are timm's.

    Raises: ValueError: `scale` or `ratio` is no range.
    """

    scale: list[Positive] = field(default_factory=lambda: [0.08, 1.0])
    """area range of RandomResizedCrop"""
    ratio: list[Positive] = field(default_factory=lambda: [3 / 4, 4 / 3])
    """aspect range of RandomResizedCrop"""
    crop_padding: NaturalNumber = 0
    """black pixels to put around the cut image, out of which one of its size is cut again (CIFAR: 4)"""
    hflip: Share = 0.5
    """probability of a horizontal flip"""
    vflip: Share = 0.0
    """probability of a vertical flip"""
    color_jitter: list[NonNegative] = field(default_factory=list)
    """strength of brightness, contrast, saturation and hue: one number (no hue), three or four"""
    lighting: NonNegative = 0.0
    """standard deviation of AlexNet's PCA lighting noise"""
    aa: Policy | None = None
    """AutoAugment policy in timm's notation: original, rand-m9-mstd0.5, …"""
    reprob: Share = 0.0
    """probability of random erasing"""
    remode: Literal["const", "rand", "pixel"] = "const"
    """what random erasing fills with"""
    recount: Count = 1
    """number of erased rectangles"""
    train_interpolation: Literal["bilinear", "bicubic", "random"] = "bilinear"
    """resampling of the random crop; random is one of the two per image"""

    def __post_init__(self) -> None:
        for key, values in (("scale", self.scale), ("ratio", self.ratio)):
            if len(values) != 2 or not 0 < values[0] <= values[1]:
                raise ValueError(f"{key}: must be two numbers, 0 < low <= high, got {values}")
