"""Figures over several runs of the same kind, which differ in their edits alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from errata.analysis.intervals import bootstrap_nested, over_runs, paired_difference, wilson
from errata.report.words import bounded

__all__ = ["Estimate", "counted", "mean_of_bounded", "paired", "pooled"]

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


def pooled(groups: Sequence[Array], rng: np.random.Generator) -> Estimate:
    """Average units over runs, each run with the same weight; the interval is `over_runs`.

    Args:
        groups: the units' values of each run, between 0 and 1; NaN for none.
        rng: draws the resamples.
    """
    known = [g[~np.isnan(g)] for g in groups]
    known = [g for g in known if len(g)]
    if not known:
        return Estimate(np.nan, np.nan, np.nan)
    value = float(np.mean([g.mean() for g in known]))
    return Estimate(value, *over_runs(known, rng))


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
