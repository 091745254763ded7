"""What several runs share: the same facts, asked again in each, are no further facts."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from errata.analysis.frames import RunFrames

__all__ = ["Facts", "bootstrap_crossed", "by_fact", "fact_names", "ids_of", "resampled_means"]

Array = NDArray[np.float64]
Facts = Sequence[Sequence[str]]
"""Of every group of answers, the name of the fact that each is of."""


def fact_names(run: RunFrames) -> dict[str, str]:
    """Return a name for each edit by its id: an id is a fact's place in one draw, and another fact's in the next."""
    return {str(f["id"]): f"{f['subject']}\n{f.get('relation') or f.get('prompt', '')}" for f in run.facts}


def ids_of(run: RunFrames, numbers: Iterable[float]) -> list[str]:
    """Return the id of the fact that each edit is of, by the edit's number."""
    ids = dict(run.journal.select("edit", "id").iter_rows())
    return [ids[int(number)] for number in numbers]


def resampled_means(groups: Sequence[Array], facts: Facts, rng: np.random.Generator, samples: int = 500) -> Array:
    """Return the mean of each group, a column each, in every resample of the facts: a fact goes with all its answers.

    Args:
        groups: the answers of each run, or of each part of one.
        facts: whose they are.
        rng: draws the resamples.
        samples: how many.
    """
    codes = _codes(facts)
    n = int(codes.max()) + 1
    times = rng.multinomial(n, np.full(n, 1 / n), size=samples)
    ends = np.cumsum([len(g) for g in groups])[:-1]
    weights = [times[:, of] for of in np.split(codes, ends)]
    with np.errstate(invalid="ignore"):  # a resample may leave a small group without any fact: NaN
        return np.stack([(w @ g) / w.sum(axis=1) for w, g in zip(weights, groups, strict=True)], axis=1)


def bootstrap_crossed(means: Array, rng: np.random.Generator, level: float = 0.95) -> tuple[float, float]:
    """Bound the mean over runs that share facts: facts are resampled, and runs (Owen 2007, the pigeonhole bootstrap).

    Never too narrow: runs and facts count in full, what is left of either twice over and more.

    Args:
        means: of every run, in every resample of the facts.
        rng: draws the runs.
        level: the coverage.
    """
    samples, runs = means.shape
    drawn = np.take_along_axis(means, rng.integers(0, runs, (samples, runs)), axis=1)
    known = drawn[~np.isnan(drawn).all(axis=1)]
    low, high = np.quantile(np.nanmean(known, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def by_fact(groups: Sequence[Array], facts: Facts) -> Array:
    """Return each fact's mean over all its answers."""
    codes = _codes(facts)
    return np.bincount(codes, np.concatenate(groups)) / np.bincount(codes)


def _codes(facts: Facts) -> NDArray[np.intp]:
    """Number the facts of all groups, one after another."""
    return np.unique(np.concatenate([np.asarray(f, dtype=str) for f in facts]), return_inverse=True)[1]
