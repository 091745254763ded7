"""Figures of several runs of one kind, whose facts may be the same: at the end, or right after each edit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from errata.analysis.differences import units
from errata.analysis.frames import RunFrames
from errata.analysis.shared import fact_names
from errata.studies.reproduce import estimates
from errata.studies.reproduce.estimates import Estimate

__all__ = ["Shares", "differing", "final", "named", "paired", "pooled", "signed"]


@dataclass(frozen=True)
class Shares:
    """A figure of several runs: fact and value of its units in each, and their mean with its interval."""

    groups: tuple[pl.DataFrame, ...]
    estimate: Estimate


def final(runs: Sequence[RunFrames], metric: str, rng: np.random.Generator) -> Shares:
    """Average a metric over the units (edits, facts) of its last step; of `...@now` over those of all steps.

    A missing answer is a lost one.

    Args:
        runs: of one kind.
        metric: its name.
        rng: draws the resamples.
    """
    groups = []
    for run in runs:
        rows = run.metric(metric)
        if not metric.endswith("@now"):
            rows = rows.filter(pl.col("step") == pl.col("step").max())
        groups.append(named(run, rows))
    return Shares(tuple(groups), pooled(groups, rng))


def named(run: RunFrames, rows: pl.DataFrame) -> pl.DataFrame:
    """Return fact, value of the units of some rows, a missing answer being a lost one."""
    fact = pl.col("unit").replace_strict(fact_names(run), default=pl.col("unit"), return_dtype=pl.String)
    return units(rows).select(fact.alias("fact"), pl.col("value").fill_nan(0.0))


def pooled(groups: Sequence[pl.DataFrame], rng: np.random.Generator) -> Estimate:
    """Average shares over runs; a fact that several of them share is one fact.

    Args:
        groups: fact and value of each run's units.
        rng: draws the resamples.
    """
    return estimates.pooled(_values(groups), rng, _facts(groups))


def signed(groups: Sequence[pl.DataFrame], rng: np.random.Generator) -> Estimate:
    """Average differences over runs as `pooled` does shares."""
    return estimates.signed(_values(groups), rng, _facts(groups))


def differing(pairs: Sequence[tuple[pl.DataFrame, pl.DataFrame]], rng: np.random.Generator) -> Estimate:
    """Average over runs how far the mean of one part of each, of other facts, lies above that of another part."""
    return estimates.unpaired(
        [(a["value"].to_numpy(), b["value"].to_numpy()) for a, b in pairs],
        rng,
        [(a["fact"].to_list(), b["fact"].to_list()) for a, b in pairs],
    )


def paired(pairs: Sequence[tuple[pl.DataFrame, pl.DataFrame]], rng: np.random.Generator) -> Estimate:
    """Average over pairs of runs the differences of the same facts, first less second."""
    both = [a.join(b, on="fact", suffix="_other") for a, b in pairs]
    return signed([t.select("fact", pl.col("value") - pl.col("value_other")) for t in both], rng)


def _values(groups: Sequence[pl.DataFrame]) -> list[np.ndarray]:
    return [g["value"].to_numpy() for g in groups]


def _facts(groups: Sequence[pl.DataFrame]) -> list[list[str]]:
    return [g["fact"].to_list() for g in groups]
