"""How the second paper's claims are measured: what a model can still do, and what of its edits is still there.

A kind is the runs named `KIND/SET`. Capability is taken item by item: the lab's tasks and, as MMLU asks for knowledge,
facts that nobody edited. An item without a valid answer is not right.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.curves import tasks
from errata.analysis.frames import RunFrames
from errata.analysis.intervals import paired_difference
from errata.report.words import bounded, number, share
from errata.studies.reproduce.claims import HOLDS, NOT_TESTABLE, Finding, compared, untestable
from errata.studies.reproduce.estimates import Estimate, mean_of_bounded, paired, pooled
from errata.studies.reproduce.results import Results

__all__ = [
    "FACTS",
    "Measure",
    "carried_over",
    "found_again",
    "items",
    "lost",
    "lost_by_each",
    "loses_more",
    "relative_loss",
    "score_gap",
    "sets_apart",
    "taken",
]

Measure = Callable[[Results], Finding]
Array = NDArray[np.float64]
FACTS = "unrelated.exact"
NOTHING = 0.05
"""Where either of two kinds loses less than this in every set, there is nothing to compare."""
PERMUTATIONS = 2000
LEVEL = 0.05


class Items(NamedTuple):
    """The same items, asked before any edit and later: 1 right, 0 not."""

    before: Array
    after: Array


def items(run: RunFrames, step: int | None = None) -> dict[str, Items]:
    """Return the items of every task, and of the facts that nobody edited, at a step.

    Args:
        run: the run.
        step: how many edits were made; the last step when None.

    Returns:
        Nothing for a task that was not asked at that step, or that the unedited model cannot do at all.
    """
    metrics = {task: f"downstream.{task}.item" for task in tasks(run)} | {"facts": FACTS}
    found = {}
    for name, metric in metrics.items():
        frame = run.metric(metric)
        later = frame["step"].max() if step is None else step
        first, last = (frame.filter(pl.col("step") == s) for s in (0, later))
        both = first.join(last, on="prompt_id", suffix="_last", maintain_order="left")
        before, after = (np.nan_to_num(both[column].to_numpy().astype(float)) for column in ("value", "value_last"))
        if before.any():
            found[name] = Items(before, after)
    return found


def relative_loss(run: RunFrames, step: int | None = None) -> Estimate:
    """Return 1 − (right at the step)/(right before any edit) over all items, with the paired difference's interval.

    The interval is Bonett and Price's (2012), over the share right before; NaN where nothing was asked.
    """
    asked = items(run, step).values()
    if not asked:
        return Estimate(math.nan, math.nan, math.nan)
    before, after = (np.concatenate(side) for side in zip(*asked, strict=True))
    low, high = paired_difference(before, after)
    return Estimate(float((before - after).mean() / before.mean()), low / before.mean(), high / before.mean())


def lost(
    kind: str, step: int | None = None, *, at_least: float = -math.inf, at_most: float = math.inf, rule: str
) -> Measure:
    """Measure the capability lost after so many edits, or at the end, averaged over the sets."""

    def measure(results: Results) -> Finding:
        runs = [results.run(name) for name in results.names(f"{kind}/*")]
        found = mean_of_bounded([relative_loss(run, step) for run in runs], results.rng())
        text = f"{found.text} lost ({_by_task(runs, step)})"
        return compared(*found, text, at_least=at_least, at_most=at_most, rule=rule)

    return measure


def lost_by_each(kinds: Sequence[str], *, at_least: float, rule: str, sets: bool = False) -> Measure:
    """Measure the least capability lost at the end among several kinds, or among the sets of one."""

    def measure(results: Results) -> Finding:
        groups = {kind: results.names(f"{kind}/*") for kind in kinds}
        if sets:
            groups = {f"set {name.rpartition('/')[2]}": [name] for names in groups.values() for name in names}
        if len(groups) < 2:
            return untestable("one set; two are needed")
        each = {
            label: mean_of_bounded([relative_loss(results.run(n)) for n in names], results.rng())
            for label, names in groups.items()
        }
        least = min(each.values(), key=lambda e: e.value)
        text = "; ".join(f"{label} {e.text}" for label, e in each.items())
        return compared(*least, text, at_least=at_least, rule=f"{rule}; the figure is the least of them")

    return measure


def loses_more(kind: str, other: str, *, at_least: float, rule: str) -> Measure:
    """Measure how much more capability one kind has lost at the end than another with the same edits.

    The interval of each set's difference is made of the two losses' own (Zou & Donner 2008), which is wider than
    needed where they go together; over the sets their mean, widened to the bootstrap's.
    """

    def measure(results: Results) -> Finding:
        names = {name.rpartition("/")[2]: name for name in results.names(f"{other}/*")}
        differences, both, most = [], [], 0.0
        for name in results.names(f"{kind}/*"):
            if (second := names.get(name.rpartition("/")[2])) is None:
                continue
            a, b = relative_loss(results.run(name)), relative_loss(results.run(second))
            value = a.value - b.value
            low = value - math.hypot(a.value - a.low, b.high - b.value)
            high = value + math.hypot(a.high - a.value, b.value - b.low)
            differences.append((value, low, high))
            most = max(most, a.high, b.high)
            both.append((a.value, b.value))
        if not both:
            return untestable("the two have no set in common")
        found = mean_of_bounded(differences, results.rng())
        mine, theirs = np.mean(both, axis=0)
        text = f"{share(mine)} against {share(theirs)}: {_points(found)}"
        if most < NOTHING:
            return untestable(f"{rule}; either loses less than {share(NOTHING)}", text)
        return compared(*found, text, at_least=at_least, rule=rule)

    return measure


def sets_apart(kind: str, step: int, *, at_least: float, rule: str) -> Measure:
    """Measure by how much the capability lost after so many edits differs between the sets that lose most and least.

    The largest of a few differences is above 0 by chance alone. So p is that of the sets' answers exchanged item by
    item: (1 + #{as far apart})/(1 + permutations). The bounds are those of the two losses.
    """

    def measure(results: Results) -> Finding:
        runs = [results.run(name) for name in results.names(f"{kind}/*")]
        if len(runs) < 2:
            return untestable("one set; two are needed")
        each = sorted(relative_loss(run, step) for run in runs)
        least, most = each[0], each[-1]
        found = Estimate(most.value - least.value, most.low - least.high, most.high - least.low)
        told = f"{_points(found)}: {', '.join(share(e.value) for e in each)} lost after {step}"
        p = _exchanged(runs, step, results.rng())
        apart = p < LEVEL and found.value >= at_least
        verdict = HOLDS if apart else NOT_TESTABLE
        return Finding(*found, f"{told}; p = {number(p, 2)}", verdict, f"{rule}, where p < {LEVEL}")

    return measure


def _exchanged(runs: Sequence[RunFrames], step: int, rng: np.random.Generator) -> float:
    """Return the p-value of the largest difference of relative losses; 1 where the runs do not have as many items."""
    sides = [[np.concatenate(side) for side in zip(*items(run, step).values(), strict=True)] for run in runs]
    if len({len(before) for before, _ in sides}) > 1:
        return 1.0
    lost = np.array([(before - after) / before.mean() for before, after in sides])
    observed = np.ptp(lost.mean(axis=1))
    drawn = [np.ptp(rng.permuted(lost, axis=0).mean(axis=1)) for _ in range(PERMUTATIONS)]
    return (1 + int((np.array(drawn) >= observed - 1e-12).sum())) / (1 + PERMUTATIONS)


def taken(kind: str, *, at_least: float = -math.inf, at_most: float = math.inf, rule: str) -> Measure:
    """Measure the individual score: each edit tested right after it is made."""

    def measure(results: Results) -> Finding:
        groups = [_now(results.run(name))["value"].to_numpy() for name in results.names(f"{kind}/*")]
        found = pooled(groups, results.rng())
        return compared(*found, found.text, at_least=at_least, at_most=at_most, rule=rule)

    return measure


def found_again(kind: str, *, at_least: float = -math.inf, at_most: float = math.inf, rule: str) -> Measure:
    """Measure the sequential score at the end: all edits tested on the final model."""

    def measure(results: Results) -> Finding:
        groups = [_again(results.run(name), "efficacy")["value"].to_numpy() for name in results.names(f"{kind}/*")]
        found = pooled(groups, results.rng())
        return compared(*found, found.text, at_least=at_least, at_most=at_most, rule=rule)

    return measure


def carried_over(kind: str, *, at_least: float = -math.inf, at_most: float = math.inf, rule: str) -> Measure:
    """Measure of the edits that are recalled at the end how many of their paraphrases are."""

    def measure(results: Results) -> Finding:
        groups = []
        for name in results.names(f"{kind}/*"):
            recalled = _again(results.run(name), "efficacy").filter(pl.col("value") == 1)
            groups.append(_again(results.run(name), "paraphrase").join(recalled, on="edit_id")["value"].to_numpy())
        if not any(map(len, groups)):
            return untestable("no edit is recalled at the end")
        found = pooled(groups, results.rng())
        text = f"{found.text} of {sum(map(len, groups))} recalled edits"
        return compared(*found, text, at_least=at_least, at_most=at_most, rule=rule)

    return measure


def score_gap(
    kind: str, steps: Sequence[int], *, at_least: float = -math.inf, at_most: float = math.inf, rule: str
) -> Measure:
    """Measure the individual score less the sequential one at the end, edit by edit.

    The interval is Bonett and Price's (2012) for all edits together, widened to the bootstrap's over sets and edits.

    Args:
        kind: of runs.
        steps: at which the two are told.
        at_least: the least difference that agrees with the claim.
        at_most: the largest.
        rule: the bounds in words.
    """

    def measure(results: Results) -> Finding:
        runs = [results.run(name) for name in results.names(f"{kind}/*")]
        told = []
        for step in steps:
            pairs = [_both(run, step) for run in runs]
            if all(len(pair) for pair in pairs):
                now, again = (
                    float(np.mean([pair[column].to_numpy().mean() for pair in pairs])) for column in ("now", "again")
                )
                told.append(f"after {step}: {share(now)} against {share(again)}")
        pairs = [_both(run, None) for run in runs]
        if not pairs or any(not len(pair) for pair in pairs):
            return untestable("no edit was tested both when made and at the end")
        found = paired([(pair["now"].to_numpy(), pair["again"].to_numpy()) for pair in pairs], results.rng())
        text = f"{_points(found)} ({'; '.join(told)})"
        return compared(*found, text, at_least=at_least, at_most=at_most, rule=rule)

    return measure


def _now(run: RunFrames) -> pl.DataFrame:
    return _answered(run.metric("efficacy.exact@now")).select("edit_id", "step", "value")


def _again(run: RunFrames, what: str, step: int | None = None) -> pl.DataFrame:
    """Return the mean of each edit's prompts of a kind at a re-test, the last when None."""
    rows = _answered(run.metric(f"{what}.exact@retest"))
    rows = rows.filter(pl.col("step") == (rows["step"].max() if step is None else step))
    return rows.group_by("edit_id", maintain_order=True).agg(pl.col("value").mean())


def _answered(rows: pl.DataFrame) -> pl.DataFrame:
    """Count a missing answer as a wrong one: a dead model recalls nothing."""
    return rows.with_columns(pl.col("value").fill_nan(0.0).fill_null(0.0))


def _both(run: RunFrames, step: int | None) -> pl.DataFrame:
    again = _again(run, "efficacy", step).rename({"value": "again"})
    return _now(run).rename({"value": "now"}).join(again, on="edit_id", maintain_order="left")


def _by_task(runs: Sequence[RunFrames], step: int | None) -> str:
    """Say the accuracy of every task, averaged over runs."""
    each = [items(run, step) for run in runs]
    return ", ".join(f"{name} {share(float(np.mean([e[name].after.mean() for e in each])))}" for name in each[0])


def _points(found: Estimate) -> str:
    return bounded(*found).replace(" %", " points", 1)
