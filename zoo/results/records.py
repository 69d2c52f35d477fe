"""Records of what was measured, and the one file format that holds them.

A record is one thing measured: what it was, how it went, its times and ratios. A result is the records of one run
with where and how it was made. Everything shown (tables, plots, the page) is a view of these.
"""

from __future__ import annotations

from msgspec import Struct


class Summary(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Samples in a few figures, in their own unit (seconds in this package)."""

    n: int
    median: float
    p90: float
    p99: float
    iqr: float
    minimum: float


class Ratio(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A ratio of two times and its 95 % intervals; None where there are too few rounds for one.

    `low` to `high` covers the true ratio, under the conditions of this run. `repeat_low` to `repeat_high` covers the
    ratio that another run of the same length reports: that one has an error of its own, and the machine has moved on.
    """

    value: float
    low: float | None = None
    high: float | None = None
    repeat_low: float | None = None
    repeat_high: float | None = None

    def inverse(self) -> Ratio:
        """Swap numerator and denominator."""
        low, high, repeat_low, repeat_high = (
            None if end is None else 1 / end for end in (self.high, self.low, self.repeat_high, self.repeat_low)
        )
        return Ratio(value=1 / self.value, low=low, high=high, repeat_low=repeat_low, repeat_high=repeat_high)


class Record(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all records: the outcome of a measurement.

    `status` is `ok`, or why there are no figures: `out of memory`, `unsupported`, `refused`, `failed`; `error` has the
    message. `warning` says why a figure is not to be trusted.
    """

    status: str = "ok"
    error: str | None = None
    warning: str | None = None

    @property
    def note(self) -> str | None:
        """The error, else the warning."""
        if self.error and self.status == "out of memory":  # engines say it each in its own words
            return f"out of memory: {self.error}"
        return self.error or self.warning


CONTROL = "control"
"""The structure of a second copy of a group's reference: how far two identical contenders differ."""


class OfNetwork(Record, kw_only=True):
    """Of one network in one structure, on images of one number and size."""

    model: str
    structure: str
    batch_size: int
    img_size: int
    threads: int
    device: str = "cpu"


class Timed(OfNetwork, kw_only=True):
    """The time of one network in one structure, in seconds per batch, beside rivals timed in the same rounds.

    is_reference: Ratios of its group are to this record. peak_memory: In bytes. other_cpus: Mean number of CPUs that
        other processes kept busy.
    """

    precision: str
    is_reference: bool = False
    time: Summary | None = None
    samples: list[float] = []
    other_cpus: float | None = None
    params: int | None = None
    peak_memory: int | None = None


class Latency(Timed, kw_only=True):
    """The inference time of one network in one structure on one engine.

    chosen: engine and precision that `auto` chose.
    speedup: The reference's time over this one's. macs, bytes: of a batch; bytes that convolutions must move at least.
    memory_kind: Whose the peak is: of tensors, or of resident memory while building and calling first.
    parity_error: Largest difference from PyTorch's float32 answer, relative to the largest answer.
    """

    engine: str
    chosen: str | None = None
    speedup: Ratio | None = None
    calls_per_sample: int | None = None
    warmup_stable: bool | None = None
    macs: int | None = None
    bytes: int | None = None
    memory_kind: str | None = None
    parity_error: float | None = None

    @property
    def name(self) -> str:
        return f"{self.model} {self.structure} {self.engine} {self.precision}"

    @property
    def images_per_s(self) -> float | None:
        return self.batch_size / self.time.median if self.time else None

    @property
    def macs_per_s(self) -> float | None:
        return self.macs / self.time.median if self.time and self.macs is not None else None

    @property
    def computed_in(self) -> str:
        """The precision computed in: what `auto` has chosen, not what it might have."""
        return (self.chosen or self.precision).rpartition("-")[2]


class Side(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One side of Concat vs Add: seconds of a call, and the bytes it must read and write."""

    time: Summary
    bytes: int | None = None

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second."""
        return self.bytes / self.time.median if self.bytes is not None else None


class Join(Record):
    """Concat against Add: one comparison at one shape on one engine; `ratio` is time(concat) / time(add)."""

    comparison: str
    stage: str
    side: int
    batch_size: int
    engine: str
    layout: str
    threads: int
    channels: int | None = None
    concat: Side | None = None
    add: Side | None = None
    ratio: Ratio | None = None


class TrainStep(Timed, kw_only=True):
    """One training step, in seconds: forward, backward, optimizer.

    step_ratio: This step's time over the reference's. saved_activations: Bytes kept from forward for backward.
    merge_pixels: Of merged training: its statistics are of so many pixels a channel.
    """

    layout: str
    merge_pixels: int | None = None
    step_ratio: Ratio | None = None
    forward: float | None = None
    backward: float | None = None
    optimizer: float | None = None
    saved_activations: int | None = None

    @property
    def name(self) -> str:
        return f"{self.model} {self.structure} {self.layout} {self.precision}"


class LayerTime(OfNetwork, kw_only=True):
    """The time of one part of a network, in seconds: `level` is network, block, branch, layer, or kind of layer.

    share: Of the network's median.
    """

    level: str
    name: str
    kind: str = ""
    n: int | None = None
    median: float | None = None
    iqr: float | None = None
    share: float | None = None


class Repeated(Struct, kw_only=True, forbid_unknown_fields=True):
    """The speed-up that each run of the same command found for the same contender."""

    model: str
    structure: str
    engine: str
    precision: str
    batch_size: int
    img_size: int
    threads: int
    speedups: list[Ratio]


class Repeatability(Struct, kw_only=True, forbid_unknown_fields=True):
    """Count of ratios that lay in the interval which another run stated for them."""

    runs: int
    compared: int
    within: int
    ratios: list[Repeated]
