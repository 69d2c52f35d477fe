"""Settings of the commands of `zoo benchmark`."""

from dataclasses import dataclass, field
from typing import Literal

from zoo.settings import Count, JsonFile, NaturalNumber, NonNegative, Pixels, Positive, ReportFile, Threads, WeightsFile

Layout = Literal["nchw", "nhwc"]
Structure = Literal["peer", "train", "folded", "deployed"]
WIDTHS = (0.5, 1.0, 1.3)


@dataclass(kw_only=True)
class Plan:
    """Rounds and duration of a measurement."""

    rounds: Count = 50
    """samples per contender, at most"""
    seconds: Positive = 60
    """time bound of each interleaved group, of which one round is always run"""
    warmup_seconds: NonNegative = 3.0
    """bound of each contender's warm-up, which ends earlier once its times are stable"""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"{self.rounds} rounds measure nothing: give --rounds 1 or more")
        if not (self.seconds > 0 and self.warmup_seconds >= 0):  # NaN is no bound either
            raise ValueError(f"a time bound must be positive: seconds={self.seconds}, warm-up={self.warmup_seconds}")


@dataclass(kw_only=True)
class MeasureConfig(Plan):
    """Settings that all measurements share: sizes, threads, duration."""

    batch_size: list[Count] = field(default_factory=lambda: [1, 8])
    """images"""
    img_size: list[Pixels] = field(default_factory=lambda: [224])
    """pixels"""
    threads: list[Threads] = field(default_factory=lambda: [1])
    """of the CPU"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where to run"""
    results_file: JsonFile | None = None
    """JSON, the input of `benchmark report`"""
    report: ReportFile | None = None
    """also write .html, .md, .csv or .png"""


@dataclass(kw_only=True)
class LatencyConfig(WeightsFile, MeasureConfig):
    """Time inference: structures x engines x precisions, interleaved."""

    model: list[str]
    """names or patterns; timm/NAME"""
    structure: list[Structure] = field(default_factory=lambda: ["peer", "train", "folded", "deployed"])
    """to be timed"""
    engine: list[str] = field(default_factory=list)
    """by default eager and the engines installed"""
    precision: list[Literal["fp32", "bf16", "fp16", "int8"]] = field(default_factory=lambda: ["fp32"])
    """of every engine"""
    checkpoint: str | None = None
    """weights of the one model given; random ones otherwise"""
    together: bool = False
    """time the models against each other, the first being the reference"""
    repeat: Count = 1
    """run all of it so often, and compare the runs' ratios"""


@dataclass(kw_only=True)
class ConcatAddConfig(MeasureConfig):
    """Time Concat vs Add: operators, Ghost modules, GhostNet and RepGhostNet."""

    batch_size: list[Count] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32, 64, 128, 256])
    """images"""
    engine: list[str] = field(default_factory=list)
    """by default eager and the engines installed"""
    layout: list[Layout] = field(default_factory=lambda: ["nchw", "nhwc"])
    """of the operators' maps"""
    comparison: list[Literal["operator", "module", "network"]] = field(
        default_factory=lambda: ["operator", "module", "network"]
    )
    """networks: up to batch 32"""
    width: list[Positive] = field(default_factory=lambda: [1.0])
    """of networks: 0.5, 1.0, 1.3"""
    rounds: Count = 20
    """samples per contender, at most"""
    seconds: Positive = 2
    """time bound of each interleaved group"""

    def __post_init__(self) -> None:
        """Refuse widths that one of the two networks has not. Raises: ValueError."""
        super().__post_init__()
        if unknown := set(self.width) - set(WIDTHS):
            raise ValueError(f"width: both networks have {', '.join(map(str, WIDTHS))}, got {min(unknown)}")


@dataclass(kw_only=True)
class TrainStepConfig(MeasureConfig):
    """Time training steps: train structure, plain twin, timm's network, merged training."""

    model: list[str]
    """names or patterns; timm/NAME"""
    batch_size: list[Count] = field(default_factory=lambda: [32])
    """images"""
    img_size: list[Pixels] = field(default_factory=lambda: [160])
    """pixels"""
    structure: list[Literal["plain", "train", "peer"]] = field(default_factory=lambda: ["plain", "train", "peer"])
    """to be timed"""
    layout: list[Layout] = field(default_factory=lambda: ["nhwc"])
    """of all but peer"""
    precision: list[Literal["fp32", "bf16"]] = field(default_factory=lambda: ["fp32"])
    """bf16: autocast"""
    merge_pixels: NaturalNumber = 0
    """also time merged training, BatchNorm statistics from about so many pixels a channel; 0: do not"""
    rounds: Count = 20
    """samples per contender, at most"""


@dataclass(kw_only=True)
class ProfileConfig(MeasureConfig):
    """Time each layer and branch, train structure beside deployed."""

    model: list[str]
    """names or patterns; timm/NAME"""
    batch_size: list[Count] = field(default_factory=lambda: [1])
    """images"""
    structure: list[Structure] = field(default_factory=lambda: ["train", "deployed"])
    """to be timed"""
    rounds: Count = 30
    """samples per contender, at most"""


@dataclass(kw_only=True)
class ReportConfig:
    """Show and draw result files."""

    results: list[str] = field(metadata={"positional": "FILE"})
    """JSON files of --results-file"""
    output: ReportFile = "report.html"
    """.html, .md, .csv or .png"""
