"""The same edits in several orders: how much the order decides, and which facts it decides about."""

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.age import age_matrix
from errata.analysis.frames import RunFrames

__all__ = ["agreement", "chance_spread", "fates", "with_position"]

Array = NDArray[np.float64]


def fates(runs: Sequence[RunFrames]) -> pl.DataFrame:
    """Return run, id, position, kept: whether each fact is exact at the end of each run, and where it stood in it.

    Args:
        runs: of the same facts.
    """
    found = []
    for number, run in enumerate(runs):
        matrix = age_matrix(run)
        last = matrix.filter(pl.col("step") == pl.col("step").max())
        ids = run.journal.select("id", pl.col("edit").cast(pl.Int64))
        positions = last.join(ids, on="edit").rename({"edit": "position"})
        found.append(positions.select(pl.lit(number).alias("run"), "id", "position", "kept"))
    return pl.concat(found).sort("run", "id")


def chance_spread(kept: float, n: int) -> float:
    """Return the standard deviation over orders if each fact's fate were drawn anew in each: √(p(1 − p)/n)."""
    return math.sqrt(kept * (1 - kept) / n) if n else math.nan


def agreement(found: pl.DataFrame, rng: np.random.Generator, samples: int = 1000) -> tuple[float, float, float]:
    """Return φ, how far two orders lose the same facts, and its 95 % interval: 1 the same, 0 as independent draws.

    The mean over pairs of orders of the correlation between the facts' fates; the bootstrap resamples facts. NaN where
    an order loses all or none.

    Args:
        found: as `fates` returns them.
        rng: draws the resamples.
        samples: how many.
    """
    table = found.pivot(on="run", index="id", values="kept").drop("id").to_numpy()
    return _bounded(table, _mean_correlation, rng, samples)


def with_position(found: pl.DataFrame, rng: np.random.Generator, samples: int = 1000) -> tuple[float, float, float]:
    """Return the correlation of a fact's fate with its position in the order, and its 95 % interval.

    Above 0 the later edits are kept. The bootstrap resamples facts, each with all its positions.

    Args:
        found: as `fates` returns them.
        rng: draws the resamples.
        samples: how many.
    """
    kept = found.pivot(on="run", index="id", values="kept").drop("id").to_numpy()
    positions = found.pivot(on="run", index="id", values="position").drop("id").to_numpy()
    both = np.stack([kept, positions], axis=-1).astype(float)
    return _bounded(both, lambda t: _correlation(t[..., 0].ravel(), t[..., 1].ravel()), rng, samples)


def _bounded(
    table: Array, figure: Callable[[Array], float], rng: np.random.Generator, samples: int
) -> tuple[float, float, float]:
    drawn = [figure(table[rng.integers(0, len(table), len(table))]) for _ in range(samples)]
    known = [value for value in drawn if math.isfinite(value)]
    if len(known) < samples / 2:
        return figure(table), math.nan, math.nan
    low, high = np.quantile(known, [0.025, 0.975])
    return figure(table), float(low), float(high)


def _mean_correlation(table: Array) -> float:
    pairs = [_correlation(table[:, a], table[:, b]) for a, b in combinations(range(table.shape[1]), 2)]
    known = [value for value in pairs if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


def _correlation(a: Array, b: Array) -> float:
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and np.ptp(a) and np.ptp(b) else math.nan
