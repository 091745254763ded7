"""How claims about collapses are measured: whether, when and how runs do, and what is left of a collapsed model.

A kind is the runs named `KIND/SAMPLE`; a collapse is found by `falls`.
"""

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.intervals import bootstrap_nested
from errata.report.words import number, span
from errata.studies.reproduce.claims import DOES_NOT, HOLDS, NOT_TESTABLE, Finding, compared, untestable
from errata.studies.reproduce.estimates import counted, pooled
from errata.studies.reproduce.falls import fall_of
from errata.studies.reproduce.measures import Measure, pairs
from errata.studies.reproduce.results import Results

__all__ = ["collapses", "entropy_at_end", "outlasts", "phases_seen", "spikes_at_collapse", "steps_vary"]

Array = NDArray[np.float64]
PERMUTATIONS = 2000
LEVEL = 0.05
LEAST = 3
"""Collapses below which their spikes have no interval worth the name."""
FEWEST = 6
"""Runs whose earliest and latest figure enclose the median in 95 % of all cases."""


def collapses(kind: str, *, expected: bool, by: int, rule: str) -> Measure:
    """Measure the share of runs that collapse; all or none of four put the interval on one side of a half.

    Args:
        kind: of runs.
        expected: whether the claim is that they do.
        by: the edits within which the paper's runs do, or do not: a later collapse is none here. A run of fewer that
            does not collapse is undecided: the interval's upper bound counts it as one that does.
        rule: the bounds in words.
    """

    def measure(results: Results) -> Finding:
        names = results.names(f"{kind}/*")
        found = [c for name in names if (c := fall_of(results, name)) is not None and c.step <= by]
        value, low, high = counted(len(found), len(names))
        open_ = sum(fall_of(results, name) is None and results.run(name).n_edits < by for name in names)
        high = counted(len(found) + open_, len(names)).high
        undecided = f"; {open_} undecided, of fewer edits than {by:,}" if open_ else ""
        at = f", at edit {', '.join(f'{c.step:,}' for c in found)}" if found else ""
        edits = max(results.run(name).n_edits for name in names)
        text = f"{len(found)} of {len(names)} runs of {edits:,} edits{at}"
        bounds = (0.5, math.inf) if expected else (-math.inf, 0.5)
        return compared(value, low, high, text, at_least=bounds[0], at_most=bounds[1], rule=rule + undecided)

    return measure


def outlasts(kind: str, other: str, *, rule: str) -> Measure:
    """Measure in how many samples one kind collapses later than another, or not at all where the other does."""

    def measure(results: Results) -> Finding:
        longer, shorter, steps = 0, 0, []
        for a, b in pairs(results, kind, other):
            first, second = (c.step if (c := fall_of(results, n)) else math.inf for n in (a, b))
            longer, shorter = longer + (first > second), shorter + (first < second)
            steps.append((_step(first), _step(second)))
        decided = longer + shorter
        if not decided:
            return untestable("neither kind collapses within the run, in any sample")
        ends = [", ".join(side) for side in zip(*steps, strict=True)]
        text = f"in {longer} of {decided} samples (it: {ends[0]}; the other: {ends[1]})"
        return compared(*counted(longer, decided), text, at_least=0.5, rule=rule)

    return measure


def steps_vary(kind: str, *, rule: str) -> Measure:
    """Measure how many times later the latest sample collapses than the earliest, by the collapses' intervals.

    Of n runs the earliest and the latest enclose the median with probability 1 − 2^(1−n) (David & Nagaraja 2003,
    §7.1), which is 95 % from six on: of fewer nothing is said.
    """

    def measure(results: Results) -> Finding:
        found = [c for name in results.names(f"{kind}/*") if (c := fall_of(results, name)) is not None]
        if len(found) < 2:
            return untestable(f"{len(found)} of the runs collapse; two are needed")
        first, last = min(found, key=lambda c: c.step), max(found, key=lambda c: c.step)
        value, low = last.step / first.step, last.interval[0] / first.interval[1]
        high = last.interval[1] / max(first.interval[0], 1)
        text = f"{number(value)} times ({number(low)}–{number(high)}): edits {first.step:,} to {last.step:,}"
        if len(found) < FEWEST:
            return untestable(f"{rule}; {len(found)} of the runs collapse, and {FEWEST} are needed", text)
        return compared(value, low, high, text, at_least=np.nextafter(1, 2), rule=rule)

    return measure


def phases_seen(kind: str, *, rule: str) -> Measure:
    """Measure in how many of the runs that collapse something known declines gradually before."""

    def measure(results: Results) -> Finding:
        names = results.names(f"{kind}/*")
        begun = [(results.verdict(name).gradual_start, fall_of(results, name)) for name in names]
        both = [(g, c) for g, c in begun if c is not None and g is not None and g < c.interval[0]]
        when = "; ".join(f"from {g:,}, collapse at {c.step:,}" for g, c in both)
        fallen = sum(c is not None for _, c in begun)
        if not fallen:
            return untestable(f"none of {len(names)} runs collapses")
        text = f"{len(both)} of {fallen} collapses{f' ({when})' if when else ''}"
        return compared(*counted(len(both), fallen), text, at_least=0.5, rule=rule)

    return measure


def spikes_at_collapse(kind: str, *, rule: str) -> Measure:
    """Measure how far the weights move where a run collapses, against windows of the same length before.

    Of each run that collapses, the largest step ‖ΔW‖/‖W₀‖ of the journal within the collapse's interval, over the
    median step before it; over runs the geometric mean. p is that of windows drawn from those that end before the
    collapse, (1 + #{as large})/(1 + permutations), and no smaller than one in the ways to draw them.
    """

    def measure(results: Results) -> Finding:
        rng = results.rng()
        observed, drawn, ways = [], [], 1
        for name in results.names(f"{kind}/*"):
            collapse = fall_of(results, name)
            moved = _step_sizes(results, name)
            if collapse is None:
                continue
            begin, end = collapse.interval[0] - 1, collapse.interval[1]
            if begin < end - begin or len(moved) < end or not (usual := np.median(moved[:begin])) > 0:
                continue
            before = np.lib.stride_tricks.sliding_window_view(moved[:begin], end - begin).max(axis=1)
            observed.append(math.log(moved[begin:end].max() / usual))
            drawn.append(rng.choice(np.log(before / usual), PERMUTATIONS))
            ways *= len(before)
        if len(observed) < LEAST:
            return untestable(f"{len(observed)} of the runs collapse with a window of steps before; {LEAST} are needed")
        value = float(np.mean(observed))
        p = max((1 + int((np.mean(drawn, axis=0) >= value).sum())) / (1 + PERMUTATIONS), 1 / ways)
        low, high = bootstrap_nested([np.array([x]) for x in observed], rng)
        value, low, high = (math.exp(x) for x in (value, low, high))
        text = f"{value:.2g} times the usual step ({low:.2g}–{high:.2g}), p = {number(p, 2)}"
        verdict = HOLDS if p < LEVEL else DOES_NOT if p > 1 - LEVEL else NOT_TESTABLE
        return Finding(value, low, high, text, verdict, f"{rule}; {len(observed)} collapses")

    return measure


def entropy_at_end(kinds: Sequence[str], *, at_most: float, rule: str) -> Measure:
    """Measure the entropy of the words that collapsed models generate at the end of their runs, of any kind.

    A text without words, such as full stops alone, repeats one sign: its entropy counts as 0.
    """

    def measure(results: Results) -> Finding:
        groups, before, each = [], [], []
        for kind in kinds:
            fallen = [name for name in results.names(f"{kind}/*") if fall_of(results, name) is not None]
            ends = []
            for name in fallen:
                rows = results.run(name).metric("entropy")
                ends.append(_entropies(rows.filter(pl.col("step") == pl.col("step").max())))
                before.append(_entropies(rows.filter(pl.col("step") == 0)))
            groups += ends
            each += [f"{kind} {pooled(ends, results.rng()).value:.2f} of {len(ends)}"] if ends else []
        if not groups:
            return untestable("no run collapses")
        value, low, high = pooled(groups, results.rng())
        base = pooled(before, results.rng()).value
        text = f"{value:.2f} ({low:.2f}–{high:.2f}; {', '.join(each)}); {base:.2f} unedited"
        return compared(value, low, high, text, at_most=at_most, rule=rule)

    return measure


def _entropies(rows: pl.DataFrame) -> Array:
    wordless = pl.col("value").is_nan() & pl.col("text").is_not_null()
    return rows.select(pl.when(wordless).then(0.0).otherwise(pl.col("value")).alias("value"))["value"].to_numpy()


def _step_sizes(results: Results, name: str) -> Array:
    """Return ‖ΔW‖/‖W₀‖ of every step; 0 where nothing was applied."""
    steps = results.run(name).journal.group_by("step").agg(pl.col("relative").max()).sort("step")
    return steps["relative"].fill_null(0.0).fill_nan(0.0).to_numpy()


def _step(step: float) -> str:
    return span(step, step) if math.isfinite(step) else "never"
