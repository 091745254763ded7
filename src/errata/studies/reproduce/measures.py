"""How claims about sequences of edits are measured: each a function of the finished runs of one or two kinds.

A kind is the runs named `KIND/SAMPLE`. "Before the collapse" is before the first edit of its interval (`falls`); a run
that does not collapse counts whole. What a paper sees after more edits than were made here, of runs none of which
collapses, decides only what more edits would not undo. A subject is resampled as one, with all edits of it in all
samples: they write to the same key.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.curves import per_edit
from errata.analysis.downstream import items_lost
from errata.analysis.forgetting import retests
from errata.analysis.frames import RunFrames
from errata.analysis.shared import ids_of
from errata.analysis.survival import lifetimes, logrank
from errata.report.words import bounded, number, share
from errata.studies.reproduce.claims import DOES_NOT, HOLDS, Finding, compared, untestable
from errata.studies.reproduce.estimates import Estimate, mean_of_bounded, pooled, signed
from errata.studies.reproduce.falls import fall_of
from errata.studies.reproduce.results import Results

__all__ = [
    "Measure",
    "differs",
    "forgets_more",
    "forgotten_share",
    "pairs",
    "proficiency",
    "tasks_lost",
]

Measure = Callable[[Results], Finding]
Array = NDArray[np.float64]
FORGOTTEN = 0.05
"""Where less than this is forgotten with either of two methods, there is nothing to compare."""


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
        groups, whose = [], []
        for name in results.names(f"{kind}/*"):
            series = per_edit(results.run(name), metric)
            chosen = series.steps > series.steps.max(initial=0) - last if last else series.steps < _until(results, name)
            groups.append(series.values[chosen])
            whose.append(_subjects(results.run(name), series.steps[chosen]))
        found = pooled(groups, results.rng(), whose)
        return compared(*found, _of_runs(found, groups, "edits"), at_least=at_least, at_most=at_most, rule=rule)

    return measure


def differs(kind: str, other: str, metric: str, *, rule: str) -> Measure:
    """Measure by how much a figure right after each edit is higher with one kind than with another, edit by edit."""

    def measure(results: Results) -> Finding:
        groups, whose = [], []
        for a, b in pairs(results, kind, other):
            first, second = (per_edit(results.run(name), metric) for name in (a, b))
            common, i, j = np.intersect1d(first.steps, second.steps, return_indices=True)
            differences = first.values[i] - second.values[j]
            known = ~np.isnan(differences)
            groups.append(differences[known])
            whose.append(_subjects(results.run(a), common[known]))
        if not groups or not all(map(len, groups)):
            return untestable("the two kinds have no edits in common that both answer")
        found = signed(groups, results.rng(), whose)
        return compared(*found, _points(*found), at_least=np.nextafter(0, 1), rule=rule)

    return measure


def tasks_lost(
    kind: str, *, at_least: float = -math.inf, at_most: float = math.inf, rule: str, at_end: bool = False, after: int
) -> Measure:
    """Measure the relative loss of the tasks' accuracy just before the collapse, or at the end of the run.

    Args:
        kind: of runs.
        at_least: the least value that agrees with the claim.
        at_most: the largest.
        rule: the bounds in words.
        at_end: take the end of the run, collapsed or not.
        after: how many edits the paper's figure stands after; where no run collapses, fewer decide only what more would
            not undo.
    """

    def measure(results: Results) -> Finding:
        lost = []
        for name in results.names(f"{kind}/*"):
            items = items_lost(results.run(name), math.inf if at_end else _until(results, name))
            if items is not None:
                lost.append((items.value, items.low, items.high))
        mean = mean_of_bounded(lost, results.rng())
        found = compared(*mean, f"{mean.text}, {len(lost)} runs", at_least=at_least, at_most=at_most, rule=rule)
        return _unless_early(found, _too_short(results, kind, after), at_least)

    return measure


def forgotten_share(
    kind: str, *, at_least: float = -math.inf, at_most: float = math.inf, rule: str, at_end: bool = False, after: int
) -> Measure:
    """Measure the share of edits, exact when made, that are not exact just before the collapse, or at the end.

    The arguments are those of `tasks_lost`.
    """

    def measure(results: Results) -> Finding:
        groups, whose = [], []
        for name in results.names(f"{kind}/*"):
            tests = retests(results.run(name))
            if not at_end:
                tests = tests.filter(pl.col("step") < _until(results, name))
            latest = tests.filter(pl.col("step") == pl.col("step").max())
            groups.append(latest["forgotten"].to_numpy().astype(float))
            whose.append(_subjects(results.run(name), latest["edit"].to_numpy()))
        mean = pooled(groups, results.rng(), whose)
        text = _of_runs(mean, groups, "edits")
        found = compared(*mean, text, at_least=at_least, at_most=at_most, rule=rule)
        return _unless_early(found, _too_short(results, kind, after), at_least)

    return measure


def forgets_more(kind: str, other: str, *, rule: str) -> Measure:
    """Measure how many more of the same edits one kind has forgotten at the end of the run than another."""

    def measure(results: Results) -> Finding:
        groups, whose = [], []
        times: list[list[pl.DataFrame]] = [[], []]
        for pair in pairs(results, kind, other):
            ends = []
            for side, name in enumerate(pair):
                tests = retests(results.run(name))
                times[side].append(lifetimes(results.run(name)))
                ends.append(tests.filter(pl.col("step") == pl.col("step").max()).select("edit", "forgotten"))
            both = ends[0].join(ends[1], on="edit", suffix="_other")
            groups.append([both[c].to_numpy().astype(float) for c in ("forgotten", "forgotten_other")])
            whose.append(_subjects(results.run(pair[0]), both["edit"].to_numpy()))
        if not groups or any(not len(first) for first, _ in groups):
            return untestable("no edit was exact when made with both kinds")
        found = signed([first - second for first, second in groups], results.rng(), whose)
        each = [pooled(side, results.rng(), whose) for side in zip(*groups, strict=True)]
        p = logrank(*(pl.concat(side) for side in times))
        text = f"{share(each[0].value)} against {share(each[1].value)}: {_points(*found)}; {_tested(p)}"
        if all(side.high < FORGOTTEN for side in each):
            return untestable(f"{rule}; either forgets less than {share(FORGOTTEN)}", text)
        return compared(*found, text, at_least=np.nextafter(0, 1), rule=rule)

    return measure


def _too_short(results: Results, kind: str, after: int) -> str:
    """Say how many runs cannot test what the paper sees after so many edits; nothing where all are as long or collapse.

    Args:
        results: the finished runs.
        kind: of runs.
        after: the paper's number of edits.
    """
    names = results.names(f"{kind}/*")
    short = [name for name in names if results.run(name).n_edits < after and fall_of(results, name) is None]
    if not short:
        return ""
    which = "no run collapses" if len(short) == len(names) else f"{len(short)} of {len(names)} runs do not collapse"
    edits = max(results.run(name).n_edits for name in short)
    return f"the paper's figure stands after {after:,} edits; {which} within {edits:,}"


def _unless_early(found: Finding, why: str, at_least: float) -> Finding:
    """Withhold a verdict that more edits could overturn; what edits cost is taken to grow with them.

    Args:
        found: by the rule.
        why: the runs are too short; empty when they are not.
        at_least: the least value that agrees with the claim; -inf for a claim of little.
    """
    if not why:
        return found
    settled = HOLDS if math.isfinite(at_least) else DOES_NOT
    if found.verdict != settled:
        return untestable(f"{found.note}; {why}", found.text)
    return dataclasses.replace(found, note=f"{found.note}; {why}, and more would not make it less")


def _subjects(run: RunFrames, numbers: Array) -> list[str]:
    """Return whom each edit is of, by the edit's number."""
    subjects = {str(fact["id"]): str(fact["subject"]) for fact in run.facts}
    return [subjects[i] for i in ids_of(run, numbers)]


def _until(results: Results, name: str) -> float:
    fall = fall_of(results, name)
    return fall.interval[0] if fall else math.inf


def pairs(results: Results, kind: str, other: str) -> list[tuple[str, str]]:
    """Pair the runs of two kinds that make the same edits: those of the same sample."""
    second = {name.rpartition("/")[2]: name for name in results.names(f"{other}/*")}
    first = {name.rpartition("/")[2]: name for name in results.names(f"{kind}/*")}
    return [(name, second[sample]) for sample, name in first.items() if sample in second]


def _of_runs(found: Estimate, groups: list[Array], units: str) -> str:
    return f"{found.text}, {sum(map(len, groups)):,} {units} of {len(groups)} runs"


def _points(value: float, low: float, high: float) -> str:
    return bounded(value, low, high).replace(" %", " points", 1)


def _tested(p: float) -> str:
    if not math.isfinite(p):
        return "nothing was forgotten"
    # Below the least normal float64 the test returns 0.
    return f"log-rank p = {number(p, 2)}" if p > 0 else "log-rank p < 1e-300"
