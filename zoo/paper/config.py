"""Settings of `zoo paper`."""

from dataclasses import dataclass, field
from typing import Literal

from zoo.settings import AnyFile, Count, Pixels, PngFile, Positive, Threads, positional


@dataclass(kw_only=True)
class PaperConfig:
    """Put a published table beside ours: computed to the printed digit, times by rank and ratio."""

    table: str | None = positional("[TABLE]", None)
    """name of a table; without it they are listed"""
    rows: str = "*"
    """pattern of rows, or models, that are shown"""
    results: list[str] = field(default_factory=list)
    """accuracies on ImageNet: validate's, JSON or CSV"""
    measure_latency: bool = False
    """time the networks on this machine"""
    batch_size: Count = 1
    """images per timed call"""
    img_size: Pixels | None = None
    """of the timed images; by default the paper's"""
    threads: Threads = 1
    """threads while timing"""
    rounds: Count = 20
    """timed samples per network, at most"""
    seconds: Positive = 120
    """bound on timing one column (warm-up: 3 at most)"""
    format: Literal["text", "markdown", "csv"] = "text"
    """of the table"""
    output: AnyFile | None = None
    """write the table there instead of to stdout"""
    plot: PngFile | None = None
    """draw the accuracy-latency figure as a PNG"""
