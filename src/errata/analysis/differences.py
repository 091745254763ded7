"""Differences between methods on the same edits, prompts and items, with paired intervals and tests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.curves import KINDS, SCORERS, is_share
from errata.analysis.frames import RunFrames
from errata.analysis.intervals import bootstrap_nested, mcnemar, paired_difference

__all__ = ["Difference", "Group", "compared", "differences", "grouped", "units"]

Array = NDArray[np.float64]
_SEEDS = (
    *(("run", "name"), ("run", "seed"), ("report", "title")),
    *(("edits", "seed"), ("edits", "sample"), ("edits", "skip")),
)
"""Where two runs of one group may differ."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds and samples alone.

    Args:
        label: what to call them.
        runs: in the order in which they were named.
    """

    label: str
    runs: tuple[RunFrames, ...]


@dataclass(frozen=True)
class Difference:
    """How far two groups differ in one metric, on what both were measured on.

    Args:
        metric: its name.
        first: the group that is compared.
        second: the group it is compared with.
        value: mean of first − mean of second, over pairs of runs.
        low: the lower bound of its 95 % interval.
        high: the upper bound.
        p: of McNemar's exact test where one pair of runs gave yes or no for each unit; else NaN.
        n: units (edits, prompts or items) that both have a value for.
        pairs: pairs of runs.
        missing: units for which either has none.
        share: whether the figures are shares; else any numbers.
    """

    metric: str
    first: str
    second: str
    value: float
    low: float
    high: float
    p: float
    n: int
    pairs: int
    missing: int
    share: bool = True


def grouped(runs: Sequence[tuple[str, RunFrames]]) -> list[Group]:
    """Gather runs that differ in their seeds and samples alone.

    Args:
        runs: label and run of each; a group of several is called by its method where that is its own.
    """
    found: dict[str, list[tuple[str, RunFrames]]] = {}
    for label, run in runs:
        config = {name: dict(part) if isinstance(part, dict) else part for name, part in run.info["config"].items()}
        for section, key in _SEEDS:
            if isinstance(config.get(section), dict):
                config[section].pop(key, None)
        found.setdefault(repr(sorted(config.items())), []).append((label, run))
    methods = [members[0][1].method for members in found.values()]
    groups = []
    for members in found.values():
        label, method = members[0][0], members[0][1].method
        if len(members) > 1:
            label = f"{method if methods.count(method) == 1 else label} ({len(members)} runs)"
        groups.append(Group(label, tuple(run for _, run in members)))
    return groups


def differences(groups: Sequence[Group], seed: int = 0, level: float = 0.95) -> list[Difference]:
    """Compare every group with the first one.

    Runs are paired by the stream of their edits, units within them by edit (averaged over its prompts), prompt or
    item. The interval of a single pair of yes and no is Bonett and Price's; otherwise units, and with several pairs
    these too, are resampled. Nothing is corrected for the number of comparisons.

    Args:
        groups: from `grouped`.
        seed: of the bootstraps.
        level: the intervals' coverage.
    """
    made = []
    for other in groups[1:]:
        pairs = _pairs(other.runs, groups[0].runs)
        for metric in compared([run for pair in pairs for run in pair]):
            rng = np.random.default_rng(seed)
            made += _difference(metric, other.label, groups[0].label, pairs, rng, level)
    return made


def compared(runs: Sequence[RunFrames]) -> list[str]:
    """Return what is compared: every share right after an edit; at the last common step re-tests, facts and items.

    What other packages measure is compared as well, numbers and shares, but for what is of the unedited model.
    """
    measured = {metric for run in runs for metric in run.metrics()}
    own = {metric: kind for run in runs for metric, kind in run.own_metrics.items()}
    now = [m for m in measured if m.endswith("@now") and is_share(m) and m not in own]
    later = [m for m in ("efficacy.exact@retest", "unrelated.exact") if m in measured]
    items = sorted(m for m in measured if m.endswith(".item") and m not in own)
    return [*sorted(now, key=_order), *later, *items, *sorted(m for m in own if not m.endswith("@base"))]


def _order(metric: str) -> tuple[int, str, int]:
    """Sort by what is asked, the papers' three kinds first, then by scorer."""
    kind, _, scorer = metric.removesuffix("@now").rpartition(".")
    return (
        KINDS.index(kind) if kind in KINDS else len(KINDS),
        kind,
        SCORERS.index(scorer) if scorer in SCORERS else len(SCORERS),
    )


def _pairs(first: Sequence[RunFrames], second: Sequence[RunFrames]) -> list[tuple[RunFrames, RunFrames]]:
    """Pair runs that made the same edits on the same model, each used once."""
    left = list(second)
    pairs = []
    for run in first:
        same = next((other for other in left if _same_edits(run, other)), None)
        if same is not None:
            left.remove(same)
            pairs.append((run, same))
    return pairs


def _same_edits(first: RunFrames, second: RunFrames) -> bool:
    """Return whether two runs made the same edits of the same model, as far as the shorter one goes."""
    if first.info.get("model_fingerprint") != second.info.get("model_fingerprint"):
        return False
    streams = [run.info.get("stream", {}) for run in (first, second)]
    hashes = [stream.get("hashes") or [] for stream in streams]
    n = min(map(len, hashes))
    if n:
        return list(hashes[0][:n]) == list(hashes[1][:n])
    return str(streams[0].get("fingerprint")) == str(streams[1].get("fingerprint"))


def _difference(
    metric: str,
    first: str,
    second: str,
    pairs: Sequence[tuple[RunFrames, RunFrames]],
    rng: np.random.Generator,
    level: float,
) -> list[Difference]:
    units = [_joined(a, b, metric) for a, b in pairs]
    units = [(a, b) for a, b in units if len(a)]
    invalid = metric.endswith(".item")
    if not units:
        return []
    missing = sum(int((np.isnan(a) | np.isnan(b)).sum()) for a, b in units)
    # An item that one run answers with no label is wrong there, as in its accuracy.
    known = [~((np.isnan(a) & np.isnan(b)) if invalid else (np.isnan(a) | np.isnan(b))) for a, b in units]
    units = [(np.nan_to_num(a[k]), np.nan_to_num(b[k])) for (a, b), k in zip(units, known, strict=True) if k.any()]
    name = metric.replace(".item", ".accuracy") if invalid else metric
    n = sum(len(a) for a, _ in units)
    own = {metric: kind for run in pairs[0] for metric, kind in run.own_metrics.items()}
    share = is_share(metric, own)
    if not units:
        return [Difference(name, first, second, math.nan, math.nan, math.nan, math.nan, 0, 0, missing, share)]
    value, p = float(np.mean([a.mean() - b.mean() for a, b in units])), math.nan
    binary = all(np.isin(x, (0.0, 1.0)).all() for pair in units for x in pair)
    if binary and len(units) == 1 and share:
        low, high = paired_difference(*units[0], level)
        p = mcnemar(*units[0])
    else:
        low, high = bootstrap_nested([a - b for a, b in units], rng, level)
    return [Difference(name, first, second, value, low, high, p, n, len(units), missing, share)]


def _joined(first: RunFrames, second: RunFrames, metric: str) -> tuple[Array, Array]:
    """Return a metric of two runs, unit by unit; of what is measured again and again, at the last common step."""
    frames = [run.metric(metric) for run in (first, second)]
    if not metric.endswith("@now"):
        common = set(frames[0]["step"]) & set(frames[1]["step"]) - {0}
        if not common:
            return np.array([]), np.array([])
        frames = [frame.filter(pl.col("step") == max(common)) for frame in frames]
    left, right = map(units, frames)
    both = left.join(right, on="unit", suffix="_second", maintain_order="left")
    return both["value"].to_numpy(), both["value_second"].to_numpy()


def units(rows: pl.DataFrame) -> pl.DataFrame:
    """Return unit, value: the mean of each edit's rows, or of each prompt's or item's that belong to no edit."""
    unit = pl.when(pl.col("edit_id") != "").then("edit_id").otherwise("prompt_id").alias("unit")
    known = pl.col("value").drop_nans()
    # An edit with prompts that have no answer is as known as those of its prompts that have one.
    mean = pl.when(known.len() > 0).then(known.mean()).otherwise(float("nan")).alias("value")
    return rows.group_by(unit, maintain_order=True).agg(mean)
