"""Figures of a method over several runs that differ in seeds, samples or orders alone, bounded over runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from errata.analysis.curves import is_share
from errata.analysis.differences import Group, compared, units
from errata.analysis.intervals import over_runs
from errata.analysis.shared import fact_names

__all__ = ["OverRuns", "figures_over_runs"]


@dataclass(frozen=True)
class OverRuns:
    """A figure of several runs.

    Args:
        metric: its name.
        group: whose runs.
        value: the mean of the runs' means.
        low: the lower bound of its 95 % interval, over runs and what was measured in each; a fact or item that several
            runs share is one.
        high: the upper bound.
        least: the least of the runs' means.
        most: the largest.
        runs: how many have a value.
        n: units (edits, prompts or items) of all of them.
        missing: units without a value.
        share: whether the figures are shares; else any numbers.
    """

    metric: str
    group: str
    value: float
    low: float
    high: float
    least: float
    most: float
    runs: int
    n: int
    missing: int
    share: bool = True


def figures_over_runs(groups: Sequence[Group], seed: int = 0, level: float = 0.95) -> list[OverRuns]:
    """Average what differences compare (`compared`) over the runs of every group of several.

    What is measured again and again is taken at the last step of the shortest run. An item without a valid answer is
    wrong, as in its task's accuracy.

    Args:
        groups: from `errata.analysis.differences.grouped`.
        seed: of the bootstraps.
        level: the intervals' coverage.
    """
    made = []
    for group in groups:
        if len(group.runs) < 2:
            continue
        for metric in compared(group.runs):
            made.append(_over_runs(metric, group, np.random.default_rng(seed), level))
    return made


def _over_runs(metric: str, group: Group, rng: np.random.Generator, level: float) -> OverRuns:
    frames = [run.metric(metric) for run in group.runs]
    if not metric.endswith("@now"):
        ends = [int(frame["step"].max()) for frame in frames if len(frame)]  # type: ignore[arg-type]
        frames = [frame.filter(pl.col("step") == min(ends, default=0)) for frame in frames]
    parts = [units(frame) for frame in frames]
    values = [part["value"].to_numpy() for part in parts]
    missing = sum(int(np.isnan(v).sum()) for v in values)
    item = metric.endswith(".item")
    # A run of which no item has an answer is dead, and its items are missing as everything else of it.
    there = [np.full(len(v), item and not np.isnan(v).all()) | ~np.isnan(v) for v in values]
    known = [np.nan_to_num(v[t]) for v, t in zip(values, there, strict=True) if t.any()]
    facts = [
        [names.get(unit, unit) for unit in part["unit"].filter(pl.Series(t))]
        for part, t, names in zip(parts, there, map(fact_names, group.runs), strict=True)
        if t.any()
    ]
    means = [float(v.mean()) for v in known] or [math.nan]
    share = is_share(metric, group.runs[0].own_metrics)
    low, high = over_runs(known, rng, level, facts, share=share)
    return OverRuns(
        metric.replace(".item", ".accuracy") if item else metric,
        group.label,
        float(np.mean(means)),
        low,
        high,
        min(means),
        max(means),
        len(known),
        sum(map(len, known)),
        missing,
        share,
    )
