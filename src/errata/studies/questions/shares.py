"""Shares of several runs of one kind, at the end or right after each edit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.differences import units
from errata.analysis.frames import RunFrames
from errata.studies.reproduce.estimates import Estimate, pooled

__all__ = ["Shares", "final"]


@dataclass(frozen=True)
class Shares:
    """A figure of several runs: its units' values in each, and their mean with its interval."""

    groups: tuple[NDArray[np.float64], ...]
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
        groups.append(np.nan_to_num(units(rows)["value"].to_numpy()))
    return Shares(tuple(groups), pooled(groups, rng))
