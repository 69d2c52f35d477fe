"""Statistics of interleaved timings: what a median is worth, and what a ratio is.

Timings on a shared machine are heavy-tailed, drift together (clock, heat, neighbours) and remember the round before.
So contenders are timed in rounds A B C A B C …, and a ratio is formed *within each round*, where drift cancels, and
averaged over the middle half of the rounds, which interruptions do not reach. Its interval comes from resampling
blocks of neighbouring rounds, which keeps the memory of the noise (circular block bootstrap: Politis and Romano 1992).
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy import stats

from zoo.results.records import Ratio, Summary

Array = npt.NDArray[np.float64]

MIN_ROUNDS = 8
"""Fewer rounds than this give no interval: there is nothing to resample."""
LEVEL = 0.95
WANDER = 0.15
"""The part of the spread between rounds that does not average out within a run, because the machine's state wanders
over minutes. On two cores with eight busy processes, the ratios of windows of 30 to 200 rounds were 0.10 to 0.15 of
it apart (standard deviation); on a quiet machine the spread itself is small, and so is this."""
RESAMPLES = 1000


def summarize(samples: Sequence[float] | Array) -> Summary:
    """Median, tail percentiles and interquartile range.

    Raises:
        ValueError: No samples.
    """
    values = np.asarray(samples, dtype=float)
    if not values.size:
        raise ValueError("no samples to summarize: time at least one round")
    minimum, q25, median, q75, p90, p99 = np.percentile(values, [0, 25, 50, 75, 90, 99]).tolist()
    return Summary(n=values.size, median=median, p90=p90, p99=p99, iqr=q75 - q25, minimum=minimum)


def paired_ratio(numerator: Sequence[float] | Array, denominator: Sequence[float] | Array, *, seed: int = 0) -> Ratio:
    """numerator / denominator: the interquartile mean of the rounds' ratios, on the log scale, with intervals.

    Args:
        numerator, denominator: (rounds,) positive samples; entry i of both comes from round i.
        seed: Of the resampling; the same samples always give the same interval.

    Raises:
        ValueError: The two differ in length, or are empty.
    """
    a, b = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    if a.shape != b.shape or not a.size:
        raise ValueError(f"paired samples needed, one of each per round: {a.size} and {b.size}")
    logs = np.log(a / b)
    centre, rounds = float(interquartile_mean(logs)), logs.size
    value = math.exp(centre)
    if rounds < MIN_ROUNDS:
        return Ratio(value=value)

    block = block_length(logs)
    picks = _circular_blocks(rounds, block, np.random.default_rng(seed))
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    deviations = np.quantile(interquartile_mean(logs[picks]) - centre, tails) * _small_sample_factor(rounds / block)
    below, above = -min(deviations[0], 0.0), max(deviations[1], 0.0)
    z = NormalDist().inv_cdf(tails[1])
    spread = float(np.subtract(*np.quantile(logs, [0.75, 0.25]))) / (2 * NormalDist().inv_cdf(0.75))
    moved = z * WANDER * spread

    def times(deviation: float) -> float:
        return value * math.exp(deviation)

    return Ratio(
        value=value,
        low=times(-below),
        high=times(above),
        repeat_low=times(-math.sqrt(2) * math.hypot(below, moved)),
        repeat_high=times(math.sqrt(2) * math.hypot(above, moved)),
    )


def interquartile_mean(values: Array) -> Array:
    """Average the middle half along the last axis: almost as precise as the mean, and deaf to outliers."""
    return stats.trim_mean(values, 0.25, axis=-1)


def autocorrelation(series: Array) -> float:
    """Lag-1 autocorrelation of a series' ranks, which heavy tails leave alone; 0 for a constant series."""
    if np.ptp(series) == 0:
        return 0.0
    centred = stats.rankdata(series) - (series.size + 1) / 2
    return float(centred[1:] @ centred[:-1] / (centred @ centred))


def block_length(series: Array) -> int:
    """Rounds per bootstrap block: twice Andrews' (1991) rule for an AR(1) of the series' own autocorrelation.

    His rule minimises the error of the variance; an interval that covers wants longer blocks (Sun, Phillips and Jin
    2008). At least n^(1/3), at most n / 4, so that there is always something to resample.
    """
    n = series.size
    # The sample autocorrelation of a short series is biased towards zero by about (1 + 3ρ) / n (Kendall 1954).
    rho = autocorrelation(series)
    rho = min(max(rho + (1 + 3 * rho) / n, 0.0), 0.97)
    andrews = 2 * 1.1447 * (4 * rho**2 / (1 - rho**2) ** 2 * n) ** (1 / 3)
    return int(np.clip(round(max(andrews, n ** (1 / 3))), 1, n // 4))


def _circular_blocks(rounds: int, block: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """(RESAMPLES, rounds) indices of rounds, in blocks of neighbours that wrap around the end."""
    count = -(-rounds // block)
    starts = generator.integers(rounds, size=(RESAMPLES, count, 1))
    picks = (starts + np.arange(block)) % rounds
    return picks.reshape(RESAMPLES, -1)[:, :rounds]


def _small_sample_factor(blocks: float) -> float:
    """By how much percentiles of few blocks are too narrow: Student's t over the normal, and √(m / (m - 1))."""
    tail = (1 + LEVEL) / 2
    t = stats.t.ppf(tail, max(blocks - 1, 1.0))
    return float(t / NormalDist().inv_cdf(tail) * math.sqrt(blocks / max(blocks - 1, 1.0)))


def noise_warning(ratio: Ratio, control: Ratio | None = None) -> str | None:
    """Why a reported difference is not to be trusted, in one line; None if it is.

    Args:
        ratio: The difference reported.
        control: The ratio of two identical contenders of the same run, whose truth is 1.
    """
    difference = abs(math.log(ratio.value))
    if ratio.low is None or ratio.high is None:
        return f"fewer than {MIN_ROUNDS} rounds: no interval"
    if ratio.low <= 1 <= ratio.high:
        return f"{_percent(difference)} is within the noise: interval {ratio.low:.3f} to {ratio.high:.3f}"
    if control is not None and control.low is not None and control.high is not None:
        floor = max(abs(math.log(control.low)), abs(math.log(control.high)))
        if floor >= difference:
            return (
                f"two identical networks differ by up to {_percent(floor)} in this run, this by {_percent(difference)}"
            )
    return None


def _percent(log_difference: float) -> str:
    return f"{100 * math.expm1(log_difference):.1f} %"
