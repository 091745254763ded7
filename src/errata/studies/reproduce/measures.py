"""How claims about sequences of edits are measured: each a function of the finished runs of one or two kinds.

A kind is the runs named `KIND/SAMPLE`. "Before the collapse" is before the first edit of its interval (`falls`); a run
that does not collapse counts whole.
"""

import math
from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.curves import curve, per_edit
from errata.analysis.downstream import items_lost
from errata.analysis.forgetting import retests
from errata.analysis.intervals import bootstrap_nested
from errata.analysis.survival import lifetimes, logrank
from errata.report.words import bounded, number, share, span
from errata.studies.reproduce.claims import DOES_NOT, HOLDS, Finding, compared, untestable
from errata.studies.reproduce.estimates import Estimate, counted, mean_of_bounded, pooled
from errata.studies.reproduce.falls import fall_of
from errata.studies.reproduce.results import Results

__all__ = [
    "Measure",
    "collapses",
    "differs",
    "entropy_at_end",
    "forgets_more",
    "forgotten_share",
    "outlasts",
    "phases_seen",
    "proficiency",
    "spikes_at_collapse",
    "steps_vary",
    "tasks_lost",
]

Measure = Callable[[Results], Finding]
Array = NDArray[np.float64]
PERMUTATIONS = 2000
LEVEL = 0.05


def proficiency(
    kind: str,
    metric: str,
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    rule: str,
    last: int | None = None,
) -> Measure:
    """Measure what is found right after each edit, averaged over the edits before the collapse.

    Args:
        kind: of runs.
        metric: such as "efficacy.success@now".
        at_least: the least value that agrees with the claim.
        at_most: the largest.
        rule: the bounds in words.
        last: take the last so many edits of the whole run instead.
    """

    def measure(results: Results) -> Finding:
        groups = []
        for name in results.names(f"{kind}/*"):
            series = per_edit(results.run(name), metric)
            chosen = series.steps > len(series) - last if last else series.steps < _until(results, name)
            groups.append(series.values[chosen])
        found = pooled(groups, results.rng())
        return compared(*found, _of_runs(found, groups, "edits"), at_least=at_least, at_most=at_most, rule=rule)

    return measure


def differs(kind: str, other: str, metric: str, *, rule: str) -> Measure:
    """Measure by how much a figure right after each edit is higher with one kind than with another, edit by edit."""

    def measure(results: Results) -> Finding:
        groups = []
        for a, b in _pairs(results, kind, other):
            first, second = (per_edit(results.run(name), metric) for name in (a, b))
            both = min(len(first), len(second))
            difference = first.values[:both] - second.values[:both]
            groups.append(difference[~np.isnan(difference)])
        if not groups or not all(map(len, groups)):
            return untestable("the two kinds have no edits in common that both answer")
        value = float(np.mean([g.mean() for g in groups]))
        low, high = bootstrap_nested(groups, results.rng())
        return compared(value, low, high, _points(value, low, high), at_least=np.nextafter(0, 1), rule=rule)

    return measure


def collapses(kind: str, *, expected: bool, rule: str) -> Measure:
    """Measure the share of runs that collapse; all or none of four put the interval on one side of a half."""

    def measure(results: Results) -> Finding:
        names = results.names(f"{kind}/*")
        found = [c for name in names if (c := fall_of(results, name)) is not None]
        value, low, high = counted(len(found), len(names))
        at = f", at edit {', '.join(f'{c.step:,}' for c in found)}" if found else ""
        edits = max(results.run(name).n_edits for name in names)
        text = f"{len(found)} of {len(names)} runs of {edits:,} edits{at}"
        bounds = (0.5, math.inf) if expected else (-math.inf, 0.5)
        return compared(value, low, high, text, at_least=bounds[0], at_most=bounds[1], rule=rule)

    return measure


def outlasts(kind: str, other: str, *, rule: str) -> Measure:
    """Measure in how many samples one kind collapses later than another, or not at all where the other does."""

    def measure(results: Results) -> Finding:
        longer, shorter, steps = 0, 0, []
        for a, b in _pairs(results, kind, other):
            first, second = (c.step if (c := fall_of(results, n)) else math.inf for n in (a, b))
            longer, shorter = longer + (first > second), shorter + (first < second)
            steps.append(f"{_step(first)} against {_step(second)}")
        decided = longer + shorter
        if not decided:
            return untestable("neither kind collapses within the run, in any sample")
        text = f"in {longer} of {decided} samples ({'; '.join(steps)})"
        return compared(*counted(longer, decided), text, at_least=0.5, rule=rule)

    return measure


def steps_vary(kind: str, *, rule: str) -> Measure:
    """Measure how many times later the latest sample collapses than the earliest, by the collapses' intervals."""

    def measure(results: Results) -> Finding:
        found = [c for name in results.names(f"{kind}/*") if (c := fall_of(results, name)) is not None]
        if len(found) < 2:
            return untestable(f"{len(found)} of the runs collapse; two are needed")
        first, last = min(found, key=lambda c: c.step), max(found, key=lambda c: c.step)
        value, low = last.step / first.step, last.interval[0] / first.interval[1]
        high = last.interval[1] / max(first.interval[0], 1)
        text = f"{number(value)} times ({number(low)}–{number(high)}): edits {first.step:,} to {last.step:,}"
        return compared(value, low, high, text, at_least=np.nextafter(1, 2), rule=rule)

    return measure


def tasks_lost(
    kind: str, *, at_least: float = -math.inf, at_most: float = math.inf, rule: str, at_end: bool = False
) -> Measure:
    """Measure the relative loss of the tasks' accuracy just before the collapse, or at the end of the run."""

    def measure(results: Results) -> Finding:
        lost = []
        for name in results.names(f"{kind}/*"):
            found = items_lost(results.run(name), math.inf if at_end else _until(results, name))
            if found is not None:
                lost.append((found.value, found.low, found.high))
        mean = mean_of_bounded(lost, results.rng())
        return compared(*mean, f"{mean.text}, {len(lost)} runs", at_least=at_least, at_most=at_most, rule=rule)

    return measure


def forgotten_share(
    kind: str, *, at_least: float = -math.inf, at_most: float = math.inf, rule: str, at_end: bool = False
) -> Measure:
    """Measure the share of edits, exact when made, that are not exact just before the collapse, or at the end."""

    def measure(results: Results) -> Finding:
        groups = []
        for name in results.names(f"{kind}/*"):
            tests = retests(results.run(name))
            if not at_end:
                tests = tests.filter(pl.col("step") < _until(results, name))
            latest = tests.filter(pl.col("step") == pl.col("step").max())
            groups.append(latest["forgotten"].to_numpy().astype(float))
        found = pooled(groups, results.rng())
        return compared(*found, _of_runs(found, groups, "edits"), at_least=at_least, at_most=at_most, rule=rule)

    return measure


def phases_seen(kind: str, *, rule: str) -> Measure:
    """Measure in how many runs something known declines gradually before a collapse."""

    def measure(results: Results) -> Finding:
        names = results.names(f"{kind}/*")
        begun = [(results.verdict(name).gradual_start, fall_of(results, name)) for name in names]
        both = [(g, c) for g, c in begun if c is not None and g is not None and g < c.interval[0]]
        when = "; ".join(f"from {g:,}, collapse at {c.step:,}" for g, c in both)
        text = f"{len(both)} of {len(names)} runs{f' ({when})' if when else ''}"
        return compared(*counted(len(both), len(names)), text, at_least=0.5, rule=rule)

    return measure


def forgets_more(kind: str, other: str, *, rule: str) -> Measure:
    """Measure how many more of the same edits one kind has forgotten at the end of the run than another."""

    def measure(results: Results) -> Finding:
        groups, shares = [], []
        times: list[list[pl.DataFrame]] = [[], []]
        for pair in _pairs(results, kind, other):
            ends = []
            for side, name in enumerate(pair):
                tests = retests(results.run(name))
                times[side].append(lifetimes(results.run(name)))
                ends.append(tests.filter(pl.col("step") == pl.col("step").max()).select("edit", "forgotten"))
            both = ends[0].join(ends[1], on="edit", suffix="_other")
            first, second = (both[c].to_numpy().astype(float) for c in ("forgotten", "forgotten_other"))
            groups.append(first - second)
            shares.append((first.mean(), second.mean()))
        if not groups or any(not len(g) for g in groups):
            return untestable("no edit was exact when made with both kinds")
        value = float(np.mean([g.mean() for g in groups]))
        low, high = bootstrap_nested(groups, results.rng())
        p = logrank(*(pl.concat(side) for side in times))
        mean = np.mean(shares, axis=0)
        text = f"{share(mean[0])} against {share(mean[1])}: {_points(value, low, high)}; {_tested(p)}"
        return compared(value, low, high, text, at_least=np.nextafter(0, 1), rule=rule)

    return measure


def spikes_at_collapse(kind: str, *, rule: str) -> Measure:
    """Measure how far the weights move where a run collapses, against windows of the same length elsewhere.

    Of each run that collapses, the largest step of `drift.mean_abs` within the collapse's interval, over the median
    step; over runs the geometric mean. p is that of windows at random places: (1 + #{as large})/(1 + permutations).
    """

    def measure(results: Results) -> Finding:
        rng = results.rng()
        observed, drawn = [], []
        for name in results.names(f"{kind}/*"):
            collapse = fall_of(results, name)
            moved = np.abs(np.diff(curve(results.run(name), "drift.mean_abs").values, prepend=0.0))
            moved = moved[np.isfinite(moved)]
            if collapse is None or len(moved) < collapse.interval[1] or not np.median(moved) > 0:
                continue
            begin, end = collapse.interval
            windows = np.lib.stride_tricks.sliding_window_view(moved, end - begin + 1)
            sizes = np.log(windows.max(axis=1) / np.median(moved))
            observed.append(sizes[begin])
            drawn.append(rng.choice(sizes, PERMUTATIONS))
        if len(observed) < 2:
            return untestable(f"{len(observed)} of the runs collapse with finite weights; two are needed")
        value = float(np.mean(observed))
        p = (1 + int((np.mean(drawn, axis=0) >= value).sum())) / (1 + PERMUTATIONS)
        low, high = bootstrap_nested([np.array([x]) for x in observed], rng)
        value, low, high = (math.exp(x) for x in (value, low, high))
        text = f"{value:.2g} times the usual step ({low:.2g}–{high:.2g}), p = {number(p, 2)}"
        return Finding(value, low, high, text, HOLDS if p < LEVEL else DOES_NOT, f"{rule}; {len(observed)} collapses")

    return measure


def entropy_at_end(kind: str, *, at_most: float, rule: str) -> Measure:
    """Measure the entropy of the words that the models at the end of the runs generate."""

    def measure(results: Results) -> Finding:
        groups, before = [], []
        for name in results.names(f"{kind}/*"):
            rows = results.run(name).metric("entropy")
            groups.append(rows.filter(pl.col("step") == pl.col("step").max())["value"].to_numpy())
            before.append(rows.filter(pl.col("step") == 0)["value"].to_numpy())
        value, low, high = pooled(groups, results.rng())
        base = pooled(before, results.rng()).value
        text = f"{value:.2f} ({low:.2f}–{high:.2f}); {base:.2f} unedited"
        return compared(value, low, high, text, at_most=at_most, rule=rule)

    return measure


def _until(results: Results, name: str) -> float:
    fall = fall_of(results, name)
    return fall.interval[0] if fall else math.inf


def _pairs(results: Results, kind: str, other: str) -> list[tuple[str, str]]:
    """Pair the runs of two kinds that make the same edits: those of the same sample."""
    second = {name.rpartition("/")[2]: name for name in results.names(f"{other}/*")}
    first = {name.rpartition("/")[2]: name for name in results.names(f"{kind}/*")}
    return [(name, second[sample]) for sample, name in first.items() if sample in second]


def _of_runs(found: Estimate, groups: list[Array], units: str) -> str:
    return f"{found.text}, {sum(map(len, groups)):,} {units} of {len(groups)} runs"


def _points(value: float, low: float, high: float) -> str:
    return bounded(value, low, high).replace(" %", " points", 1)


def _tested(p: float) -> str:
    return f"log-rank p = {number(p, 2)}" if math.isfinite(p) else "nothing was forgotten"


def _step(step: float) -> str:
    return span(step, step) if math.isfinite(step) else "never"
