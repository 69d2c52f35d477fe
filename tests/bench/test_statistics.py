"""The intervals of the benchmark, on synthetic timings whose truth is known."""

import functools
import itertools
import math

import numpy as np
import pytest

from zoo.bench.statistics import (
    MIN_ROUNDS,
    WANDER,
    autocorrelation,
    block_length,
    noise_warning,
    paired_ratio,
    summarize,
)
from zoo.results.records import Ratio

TRUTH = 2.0
REPETITIONS = 200


def ar1(generator, rounds, rho, spread):
    """Autocorrelated normal noise of a given standard deviation, started in its stationary state."""
    steps = generator.normal(0, spread * math.sqrt(1 - rho**2), rounds)
    noise = [generator.normal(0, spread)]
    for step in steps[1:]:
        noise.append(rho * noise[-1] + step)
    return np.array(noise)


def independent(generator, rounds):
    return generator.normal(0, 0.05, (2, rounds))


def heavy_tailed(generator, rounds):
    """|t| with 1.5 degrees of freedom: no variance, one-sided like interruptions are."""
    return 0.03 * np.abs(generator.standard_t(1.5, (2, rounds)))


def drifting(generator, rounds):
    """40 % of common drift over the run and a common random walk, 3 % of noise of each sample's own."""
    common = np.linspace(0, 0.4, rounds) + ar1(generator, rounds, 0.95, 0.1)
    return common + generator.normal(0, 0.03, (2, rounds))


def autocorrelated(generator, rounds):
    """Each contender has a slow noise of its own, which pairing cannot cancel."""
    return np.stack([ar1(generator, rounds, 0.7, 0.05) for _ in range(2)])


NOISES = {noise.__name__: noise for noise in (independent, heavy_tailed, drifting, autocorrelated)}


@functools.cache
def reported(noise, rounds=60):
    """Ratios that repeated runs report; the true one is TRUTH."""
    generator = np.random.default_rng(20)
    runs = [noise(generator, rounds) for _ in range(REPETITIONS)]
    return [paired_ratio(TRUTH * np.exp(a), np.exp(b)) for a, b in runs]


@pytest.mark.parametrize("name", NOISES)
def test_the_interval_covers_the_true_ratio_at_its_nominal_rate(name):
    covered = sum(ratio.low <= TRUTH <= ratio.high for ratio in reported(NOISES[name]))
    # 95 % less three standard deviations of a binomial of 200: 90.4 %.
    assert covered / REPETITIONS >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / REPETITIONS)


@pytest.mark.parametrize("name", NOISES)
def test_the_repeat_interval_covers_the_ratio_of_the_next_run(name):
    pairs = itertools.pairwise(reported(NOISES[name]))
    covered = sum(a.repeat_low <= b.value <= a.repeat_high for a, b in pairs)
    assert covered / (REPETITIONS - 1) >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / REPETITIONS)


def test_the_intervals_are_not_wider_than_they_must_be():
    """The standard error of a mean of n normal ratios is σ √(2 / n); the middle half's is 1.09 times that."""
    ideal = 2 * 1.96 * 0.05 * math.sqrt(2 / 60)
    widths = [math.log(ratio.high / ratio.low) for ratio in reported(independent)]
    assert ideal < np.mean(widths) < 1.5 * ideal
    repeats = [math.log(ratio.repeat_high / ratio.repeat_low) for ratio in reported(independent)]
    wander = 2 * 1.96 * WANDER * 0.05 * math.sqrt(2)
    assert np.mean(repeats) == pytest.approx(math.sqrt(2) * math.hypot(np.mean(widths), wander), rel=0.05)


def test_autocorrelated_noise_widens_the_interval():
    """As it must: resampling single rounds would give both the same width, and cover far too rarely."""
    widths = [np.mean([math.log(r.high / r.low) for r in reported(noise)]) for noise in (independent, autocorrelated)]
    assert widths[1] > 1.7 * widths[0]  # √((1 + 0.7) / (1 - 0.7)) = 2.4 in the limit


def test_pairing_cancels_common_drift():
    """Rounds that slow down fivefold together leave the ratio alone."""
    slow = np.linspace(1, 5, 50)
    ratio = paired_ratio(TRUTH * slow, slow)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((TRUTH, TRUTH, TRUTH))


def test_interruptions_do_not_reach_the_ratio():
    """A fifth of one contender's samples, a hundredfold slower, move a ratio of exact times not at all."""
    slow = np.where(np.arange(50) % 5 == 0, 100.0, 1.0)
    assert paired_ratio(TRUTH * slow, np.ones(50)).value == pytest.approx(TRUTH)


def test_the_same_samples_give_the_same_interval():
    samples = np.exp(independent(np.random.default_rng(1), 30))
    assert paired_ratio(*samples) == paired_ratio(*samples)


def test_few_rounds_have_no_interval():
    ratio = paired_ratio([2.0] * (MIN_ROUNDS - 1), [1.0] * (MIN_ROUNDS - 1))
    assert ratio.value == 2.0
    assert ratio.low is None
    assert ratio.repeat_high is None


@pytest.mark.parametrize("pair", [([], []), ([1.0, 2.0], [1.0])])
def test_samples_must_come_in_pairs(pair):
    with pytest.raises(ValueError, match="paired samples needed"):
        paired_ratio(*pair)


def test_summary_of_known_samples():
    summary = summarize(range(101))
    assert (summary.n, summary.median, summary.p90, summary.p99, summary.iqr, summary.minimum) == (
        101,
        50,
        90,
        99,
        50,
        0,
    )
    with pytest.raises(ValueError, match="no samples"):
        summarize([])


def test_autocorrelation_and_blocks_grow_with_the_memory_of_the_noise():
    generator = np.random.default_rng(3)
    series = {rho: ar1(generator, 2000, rho, 1.0) for rho in (0.0, 0.5, 0.9)}
    for rho, values in series.items():
        assert autocorrelation(values) == pytest.approx(rho, abs=0.06)
    lengths = [block_length(values) for values in series.values()]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[2]
    assert autocorrelation(np.ones(5)) == 0.0


def ratio_of(value, low, high):
    return Ratio(value=value, low=low, high=high, repeat_low=low, repeat_high=high)


def test_warns_where_the_difference_is_within_the_noise():
    assert "within the noise" in str(noise_warning(ratio_of(1.05, 0.98, 1.12)))
    assert noise_warning(ratio_of(1.05, 1.02, 1.08)) is None


def test_warns_where_two_identical_contenders_differ_as_much():
    difference = ratio_of(1.05, 1.02, 1.08)
    assert "two identical networks" in str(noise_warning(difference, ratio_of(1.01, 0.93, 1.07)))
    assert noise_warning(difference, ratio_of(1.0, 0.99, 1.01)) is None


def test_warns_where_there_is_no_interval():
    assert f"fewer than {MIN_ROUNDS}" in str(noise_warning(Ratio(value=2.0)))
