"""The same edits in several orders: how much the order decides, and which facts it decides about."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.age import age_matrix
from errata.analysis.frames import RunFrames

__all__ = ["Figure", "Spread", "agreement", "fate_table", "fates", "spread", "with_position"]

Array = NDArray[np.float64]


class Figure(NamedTuple):
    """A correlation and its 95 % interval, and the share of the resamples that had one: the rest lost all or none.

    p: of one at least as large where each order loses as many facts by lot; NaN where that was not asked.
    """

    value: float
    low: float
    high: float
    known: float
    p: float = math.nan


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


@dataclass(frozen=True)
class Spread:
    """How far the shares of several orders lie apart.

    Args:
        value: their standard deviation.
        chance: what it would be if each fact's fates fell to the orders by lot, each fact with a chance of its own.
        p: of a spread at least as large, when they do.
    """

    value: float
    chance: float
    p: float


def spread(table: Array, rng: np.random.Generator, samples: int = 10_000) -> Spread:
    """Compare the spread of the orders' shares with that of each fact's fates shuffled among the orders.

    By chance its variance is Σ mᵢ(1 − mᵢ) k/(k − 1)/n² over the facts' own shares mᵢ of k orders: facts that are always
    kept, or always lost, add nothing. The shuffling tests as Cochran's Q does (1950), without its approximation.

    Args:
        table: 0 or 1, a row a fact, a column an order.
        rng: shuffles.
        samples: how often.
    """
    n, k = table.shape
    means = table.mean(axis=1)
    observed = float(table.mean(axis=0).std(ddof=1))
    chance = math.sqrt(float((means * (1 - means)).sum()) * k / (k - 1)) / n
    drawn = [rng.permuted(table, axis=1).mean(axis=0).std(ddof=1) for _ in range(samples)]
    return Spread(observed, chance, (1 + int((np.array(drawn) >= observed - 1e-12).sum())) / (1 + samples))


def fate_table(found: pl.DataFrame) -> Array:
    """Return what `fates` found as a row a fact and a column an order."""
    return found.pivot(on="run", index="id", values="kept").drop("id").to_numpy()


def agreement(found: pl.DataFrame, rng: np.random.Generator, samples: int = 1000) -> Figure:
    """Return φ, how far two orders lose the same facts, and its 95 % interval: 1 the same, 0 as independent draws.

    The mean over pairs of orders of the correlation between the facts' fates; the bootstrap resamples facts. Pairs of
    which an order loses all or none have no correlation and are left out, and so are resamples without such a pair:
    where few facts are lost, figure and interval are conditional on it. p shuffles the fates of each order among the
    facts, and is not.

    Args:
        found: as `fates` returns them.
        rng: draws the resamples.
        samples: how many.
    """
    table = fate_table(found)
    same = _bounded(table, _mean_correlation, rng, samples)
    drawn = [_mean_correlation(rng.permuted(table, axis=0)) for _ in range(samples)]
    return same._replace(p=(1 + sum(value >= same.value - 1e-12 for value in drawn)) / (1 + samples))


def with_position(found: pl.DataFrame, rng: np.random.Generator, samples: int = 1000) -> Figure:
    """Return the correlation of a fact's fate with its position in the order, and its 95 % interval.

    Above 0 the later edits are kept. The bootstrap resamples facts, each with all its positions.

    Args:
        found: as `fates` returns them.
        rng: draws the resamples.
        samples: how many.
    """
    kept = fate_table(found)
    positions = found.pivot(on="run", index="id", values="position").drop("id").to_numpy()
    both = np.stack([kept, positions], axis=-1).astype(float)
    return _bounded(both, lambda t: _correlation(t[..., 0].ravel(), t[..., 1].ravel()), rng, samples)


def _bounded(table: Array, figure: Callable[[Array], float], rng: np.random.Generator, samples: int) -> Figure:
    drawn = [figure(table[rng.integers(0, len(table), len(table))]) for _ in range(samples)]
    known = [value for value in drawn if math.isfinite(value)]
    share = len(known) / samples
    if share < 0.5:
        return Figure(figure(table), math.nan, math.nan, share)
    low, high = np.quantile(known, [0.025, 0.975])
    return Figure(figure(table), float(low), float(high), share)


def _mean_correlation(table: Array) -> float:
    pairs = [_correlation(table[:, a], table[:, b]) for a, b in combinations(range(table.shape[1]), 2)]
    known = [value for value in pairs if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


def _correlation(a: Array, b: Array) -> float:
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and np.ptp(a) and np.ptp(b) else math.nan
