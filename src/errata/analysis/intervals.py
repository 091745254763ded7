"""Confidence intervals: Wilson's for shares, the bootstrap's percentiles for means, and those of paired differences."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binomtest

from errata.analysis.shared import Facts, bootstrap_crossed, by_fact, resampled_means

__all__ = [
    "bootstrap_mean",
    "bootstrap_nested",
    "mcnemar",
    "mean_interval",
    "over_runs",
    "paired_over_runs",
    "paired_difference",
    "wilson",
]

FEW = 20
"""Fewer units than this are too few to resample."""
RARE = 5
"""Fewer facts than this that are not as all the others are too few to resample."""


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Bound a share by Wilson's score interval (Wilson 1927).

    (p̂ + z²/2n ± z √(p̂(1−p̂)/n + z²/4n²)) / (1 + z²/n), with p̂ = successes/n; it stays in [0, 1] and is right at 0 and n.

    Args:
        successes: how many succeeded.
        n: of how many; 0 gives (NaN, NaN).
        level: the coverage.
    """
    if n == 0 or not math.isfinite(successes):
        return math.nan, math.nan
    z = float(ndtri((1 + level) / 2))
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Rounding may leave the bound a hair outside what it must include.
    return (
        max(0.0, min(p, (centre - half) / (1 + z * z / n))),
        min(1.0, max(p, (centre + half) / (1 + z * z / n))),
    )


def bootstrap_mean(
    values: NDArray[np.float64], rng: np.random.Generator, level: float = 0.95, samples: int = 500
) -> tuple[float, float]:
    """Bound a mean by the percentiles of its bootstrap distribution.

    Args:
        values: independent units (edits, not the prompts of one edit).
        rng: draws the resamples.
        level: the coverage.
        samples: how many resamples.
    """
    if not len(values) or not np.isfinite(values).all():
        return math.nan, math.nan
    means = values[rng.integers(0, len(values), (samples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(
    values: NDArray[np.float64], rng: np.random.Generator, level: float = 0.95, *, share: bool = False
) -> tuple[float, float]:
    """Bound a mean: Wilson's interval where values are shares, all of them 0 or 1, the bootstrap's otherwise.

    A single figure has none: NaN. Few shares have Wilson's too: three edits of two neighbors in three would resample to
    no width at all. It is never too narrow, since figures between 0 and 1 vary at most as much as zeros and ones of the
    same mean.

    Args:
        values: the units' values.
        rng: draws the resamples.
        level: the coverage.
        share: whether each value is a share of successes.
    """
    if share and (np.isin(values, (0.0, 1.0)).all() or len(values) < FEW):
        return wilson(float(values.sum()), len(values), level)
    return bootstrap_mean(values, rng, level) if len(values) > 1 else (math.nan, math.nan)


def bootstrap_nested(
    groups: Sequence[NDArray[np.float64]], rng: np.random.Generator, level: float = 0.95, samples: int = 500
) -> tuple[float, float]:
    """Bound a mean over samples and seeds: resample the groups, then the units of each (Davison & Hinkley 1997, §3.8).

    The figure is the mean of the groups' means, so that a long run weighs no more than a short one. With a single
    group this is the bootstrap of its units.

    Args:
        groups: the units' values of each run.
        rng: draws the resamples.
        level: the coverage.
        samples: how many resamples.
    """
    if not groups or any(not len(g) or not np.isfinite(g).all() for g in groups):
        return math.nan, math.nan
    means = np.empty(samples)
    for i in range(samples):
        drawn = rng.integers(0, len(groups), len(groups))
        means[i] = np.mean([groups[g][rng.integers(0, len(groups[g]), len(groups[g]))].mean() for g in drawn])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def over_runs(
    groups: Sequence[NDArray[np.float64]],
    rng: np.random.Generator,
    level: float = 0.95,
    facts: Facts | None = None,
    *,
    share: bool = True,
) -> tuple[float, float]:
    """Bound the mean of several runs' figures, each run with the same weight.

    The interval of all units together (Wilson's for zeros and ones), widened to the nested bootstrap's where the runs
    differ more among themselves than their units would let them. Runs that agree to the last unit keep a width.

    Units of which several runs share some are told apart by `facts`: then it is the facts that are resampled, each with
    its answers in all runs, and as many facts as there are bound the interval where hardly one differs from the others.

    Args:
        groups: the units' values of each run; none missing.
        rng: draws the resamples.
        level: the coverage.
        facts: which fact each unit is of; each of one of its own when None.
        share: whether they are shares, between 0 and 1.
    """
    if not groups:
        return math.nan, math.nan
    value = float(np.mean([g.mean() for g in groups]))
    several = len(groups) > 1
    if facts is None:
        bounds = [mean_interval(np.concatenate(groups), rng, level, share=share)]
        bounds += [bootstrap_nested(groups, rng, level)] if several else []
    else:
        means = by_fact(groups, facts)
        rare = share and min((means != 0).sum(), (means != 1).sum()) < RARE
        # As many zeros and ones as facts vary at least as much as their means.
        bounds = [wilson(means.sum(), len(means), level) if rare else mean_interval(means, rng, level, share=share)]
        bounds += [bootstrap_crossed(resampled_means(groups, facts, rng), rng, level)] if several else []
    bounds = [(low, high) for low, high in bounds if math.isfinite(low + high)] or [(math.nan, math.nan)]
    return min(value, *(low for low, _ in bounds)), max(value, *(high for _, high in bounds))


def paired_over_runs(
    differences: Sequence[NDArray[np.float64]], rng: np.random.Generator, facts: Facts, level: float = 0.95
) -> tuple[float, float]:
    """Bound the mean over runs of differences of the same facts, of which several runs share some.

    Facts are resampled, each with its differences in all runs, and runs; where hardly a fact differs, as many facts as
    there are bound it by Bonett and Price's interval.

    Args:
        differences: of each run's facts, between −1 and 1; none missing.
        rng: draws the resamples.
        facts: which fact each is of.
        level: the coverage.
    """
    value, means = float(np.mean([d.mean() for d in differences])), by_fact(differences, facts)
    rare = (means != 0).sum() < RARE
    bounds = [paired_difference(means, np.zeros_like(means), level) if rare else bootstrap_mean(means, rng, level)]
    if len(differences) > 1:
        bounds.append(bootstrap_crossed(resampled_means(differences, facts, rng), rng, level))
    return min(value, *(low for low, _ in bounds)), max(value, *(high for _, high in bounds))


def paired_difference(
    first: NDArray[np.float64], second: NDArray[np.float64], level: float = 0.95
) -> tuple[float, float]:
    """Bound the difference of two shares of the same items, mean(first) − mean(second) (Bonett & Price 2012).

    Wald's interval after adding one discordant pair each way: with p̃₁₂ = (f₁₂+1)/(n+2) and p̃₂₁ = (f₂₁+1)/(n+2),
    p̃₁₂ − p̃₂₁ ± z √((p̃₁₂ + p̃₂₁ − (p̃₁₂ − p̃₂₁)²)/(n+2)). It keeps a width where no item differs.

    Args:
        first: 0 or 1 an item.
        second: the same items, in the same order.
        level: the coverage.
    """
    n = len(first)
    if not n or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return math.nan, math.nan
    z = float(ndtri((1 + level) / 2))
    gained, lost = ((int((first > second).sum()) + 1) / (n + 2), (int((first < second).sum()) + 1) / (n + 2))
    half = z * math.sqrt((gained + lost - (gained - lost) ** 2) / (n + 2))
    found = float(first.mean() - second.mean())
    return max(-1.0, min(found, gained - lost - half)), min(1.0, max(found, gained - lost + half))


def mcnemar(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the exact p-value of McNemar's test (1947): among items that differ, either side is as likely.

    Args:
        first: 0 or 1 an item.
        second: the same items, in the same order.
    """
    gained, lost = int((first > second).sum()), int((first < second).sum())
    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
