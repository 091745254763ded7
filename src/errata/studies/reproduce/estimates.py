"""Figures over several runs of the same kind, which differ in their edits alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from errata.analysis.intervals import bootstrap_nested, over_runs, paired_difference, paired_over_runs, wilson
from errata.analysis.shared import Facts, bootstrap_crossed, resampled_means
from errata.report.words import bounded

__all__ = ["Estimate", "counted", "mean_of_bounded", "paired", "pooled", "signed", "unpaired"]

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """A share with its interval."""

    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """The share in per cent, with its interval."""
        return bounded(*self)

    @property
    def points(self) -> str:
        """A difference in percentage points, with its interval."""
        return bounded(*self).replace(" %", " points", 1)


def pooled(groups: Sequence[Array], rng: np.random.Generator, facts: Facts | None = None) -> Estimate:
    """Average units over runs, each run with the same weight; the interval is `over_runs`.

    Args:
        groups: the units' values of each run, between 0 and 1; NaN for none.
        rng: draws the resamples.
        facts: which fact each unit is of, where several runs may share some.
    """
    known = [~np.isnan(g) for g in groups]
    values = [g[k] for g, k in zip(groups, known, strict=True) if k.any()]
    if not values:
        return Estimate(np.nan, np.nan, np.nan)
    named = None
    if facts is not None:
        named = [np.asarray(f)[k].tolist() for f, k in zip(facts, known, strict=True) if k.any()]
    return Estimate(float(np.mean([g.mean() for g in values])), *over_runs(values, rng, facts=named))


def signed(groups: Sequence[Array], rng: np.random.Generator, facts: Facts) -> Estimate:
    """Average differences between −1 and 1 over runs, each run with the same weight; facts and runs are resampled.

    Args:
        groups: the units' differences in each run.
        rng: draws the resamples.
        facts: which fact each unit is of.
    """
    known = [(np.asarray(g), named) for g, named in zip(groups, facts, strict=True) if len(g)]
    if not known:
        return Estimate(np.nan, np.nan, np.nan)
    values = [g for g, _ in known]
    bounds = paired_over_runs(values, rng, [named for _, named in known])
    return Estimate(float(np.mean([g.mean() for g in values])), *bounds)


def unpaired(
    pairs: Sequence[tuple[Array, Array]], rng: np.random.Generator, facts: Sequence[tuple[Sequence[str], Sequence[str]]]
) -> Estimate:
    """Average over runs the difference of the means of two groups of each; facts and runs are resampled.

    Args:
        pairs: the units' values of both groups of each run; runs that lack one are left out.
        rng: draws the resamples.
        facts: which fact each unit is of: one may be of either group in another run.
    """
    known = [(pair, named) for pair, named in zip(pairs, facts, strict=True) if all(map(len, pair))]
    if not known:
        return Estimate(np.nan, np.nan, np.nan)
    sides = [pair[side] for side in (0, 1) for pair, _ in known]
    means = resampled_means(sides, [named[side] for side in (0, 1) for _, named in known], rng)
    low, high = bootstrap_crossed(means[:, : len(known)] - means[:, len(known) :], rng)
    return Estimate(float(np.mean([a.mean() - b.mean() for (a, b), _ in known])), low, high)


def counted(hits: int, n: int) -> Estimate:
    """Return the share of runs of which something is true, with Wilson's interval.

    With four runs, all or none of them put the interval on one side of a half (0.51 to 1, 0 to 0.49); three do not.
    """
    return Estimate(hits / n if n else np.nan, *wilson(hits, n))


def paired(pairs: Sequence[tuple[Array, Array]], rng: np.random.Generator) -> Estimate:
    """Average the differences of the same units, first less second, each run with the same weight.

    The interval is the nested bootstrap's, widened to Bonett and Price's (2012) for all units together where they are
    right or wrong, or where all agree: resampled, units that agree have no width at all.

    Args:
        pairs: the units' values of each run, between 0 and 1; none missing.
        rng: draws the resamples.
    """
    differences = [first - second for first, second in pairs]
    if not differences or any(not len(d) for d in differences):
        return Estimate(np.nan, np.nan, np.nan)
    value = float(np.mean([d.mean() for d in differences]))
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    bounds = [bootstrap_nested(differences, rng)] if len(pairs) > 1 else []
    if not bounds or np.ptp(first - second) == 0 or np.isin((first, second), (0.0, 1.0)).all():
        bounds.append(paired_difference(first, second))
    return Estimate(value, min(value, *(low for low, _ in bounds)), max(value, *(high for _, high in bounds)))


def mean_of_bounded(figures: Sequence[tuple[float, float, float]], rng: np.random.Generator) -> Estimate:
    """Average figures that have intervals of their own and share their items, one a run.

    The interval is the mean of theirs, since a sample of items that all runs share is no larger for there being more
    runs; widened to the bootstrap's over runs.

    Args:
        figures: value, low, high of each run; runs without a figure are left out.
        rng: draws the resamples.
    """
    known = np.array([f for f in figures if np.isfinite(f).all()])
    if not len(known):
        return Estimate(np.nan, np.nan, np.nan)
    value, low, high = known.mean(axis=0)
    if len(known) > 1:
        drawn = bootstrap_nested([np.array([v]) for v in known[:, 0]], rng)
        low, high = min(low, drawn[0]), max(high, drawn[1])
    return Estimate(float(value), float(low), float(high))
