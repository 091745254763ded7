"""Where a whole run collapses: the phases of several curves, and which of them agree."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from errata.analysis.curves import KINDS, Series, curve, per_edit, tasks
from errata.analysis.forgetting import forgotten
from errata.analysis.frames import RunFrames
from errata.analysis.phases import FLOOR, LEVEL, Direction, Phases, find_phases, level_break

__all__ = ["Collapse", "Evidence", "Spike", "evidence", "find_collapse", "spikes"]

PER_EDIT_NEAR = 20
"""Points on either side of a break in a series of one figure an edit, which jumps between 0 and 1."""
SPIKE = 5.0
"""An update this many times the median of the run stands out as the cause of a collapse."""

ABRUPT = 1 / 3
"""A break whose interval covers more of the run than this is not called abrupt."""
JUDGED = ("disabling", "nonfinite")
"""Statuses of edits that are in the weights although the guard judged that they disable the model."""


@dataclass(frozen=True)
class Evidence:
    """One followed curve and its phases.

    Args:
        key: the metric.
        label: what it is, in words.
        group: proficiency, forgetting, knowledge, downstream or language.
        series: the curve; of perplexity, its logarithm.
        phases: what was found in it.
        stride: the usual distance between its steps.
    """

    key: str
    label: str
    group: str
    series: Series
    phases: Phases
    stride: float


@dataclass(frozen=True)
class Spike:
    """An edit that stands out: its number, subject, status and ‖ΔW‖/‖W₀‖, and how many times the median that is."""

    edit: int
    subject: str
    status: str
    relative: float
    times: float


@dataclass(frozen=True)
class Collapse:
    """Where and how a run collapses.

    Args:
        step: the edit after which it is first seen.
        interval: the edits among which it lies.
        agreeing: the curves that break there.
        others: the followed curves that do not.
        cause: the edit within the interval that stands out, if one does.
    """

    step: int
    interval: tuple[int, int]
    agreeing: tuple[Evidence, ...]
    others: tuple[Evidence, ...]
    cause: Spike | None


def evidence(run: RunFrames, seed: int = 0) -> tuple[Evidence, ...]:
    """Return every followed curve of a run with its phases.

    Args:
        run: the run.
        seed: of the bootstrap that gives the intervals.
    """
    judged = run.journal.filter(pl.col("status").is_in(JUDGED))["edit"].to_list()
    made = []
    for key, label, group, series, direction, scale, near in _curves(run):
        if not len(series):
            continue
        steps, values, rng = series.steps, series.values, np.random.default_rng(seed)
        phases = find_phases(steps, values, rng=rng, direction=direction, scale=scale, near=near)
        if judged and phases.collapse_step is None:
            # One edit's zero or one is no level.
            least = 3 if group == "proficiency" else 1
            phases = level_break(steps, values, judged, phases, FLOOR * (scale or 1.0), near or 3, least)
        stride = float(np.median(np.diff(steps))) if len(series) > 1 else 1.0
        made.append(Evidence(key, label, group, series, phases, stride))
    return tuple(made)


def _curves(run: RunFrames) -> Iterator[tuple[str, str, str, Series, Direction, float | None, int | None]]:
    words = {
        "efficacy": "new edits",
        "paraphrase": "paraphrases of new edits",
        "neighborhood": "neighbors of new edits",
    }
    for kind in KINDS:
        key = f"{kind}.success@now"
        series = _judged(per_edit(run, key))
        yield key, words[kind], "proficiency", series, "falling", 1.0, min(PER_EDIT_NEAR, max(3, len(series) // 8))
    lost = forgotten(run).filter(pl.col("metric") == "forgotten.current")
    series = Series(lost["step"].to_numpy().astype(float), lost["value"].to_numpy())
    yield "forgotten.current", "earlier edits", "forgetting", series, "rising", 1.0, None
    yield (
        "unrelated.exact",
        "unrelated facts",
        "knowledge",
        _judged(curve(run, "unrelated.exact", lost=True)),
        "falling",
        1.0,
        None,
    )
    for task, key in tasks(run).items():
        yield key, f"the {task} task", "downstream", _judged(curve(run, key, lost=True)), "falling", 1.0, None
    perplexity = curve(run, "perplexity")
    with np.errstate(all="ignore"):
        logs = Series(perplexity.steps, np.log(perplexity.values))
    # A jump by a factor of e² is a collapse of the language model; the floor is 0.2 of this scale.
    yield "perplexity", "perplexity", "language", logs, "rising", 10.0, None


def _judged(series: Series) -> Series:
    """Count what is missing while the model still answers as lost; missing to the end, it stays NaN: a dead model."""
    alive = np.flatnonzero(~np.isnan(series.values))
    values = series.values.copy()
    if len(alive):
        values[: alive[-1]] = np.nan_to_num(values[: alive[-1]], nan=0.0, posinf=np.inf, neginf=-np.inf)
    return Series(series.steps, values)


def find_collapse(run: RunFrames, found: tuple[Evidence, ...]) -> Collapse | None:
    """Return the collapse on which most groups of curves agree, the earliest of equals; None when no curve breaks.

    Two breaks agree when their intervals overlap, widened by one stride of either curve: a coarse curve sees late what
    a fine one sees at once. The collapse lies where the agreeing interval is narrowest. A break that could lie anywhere
    in more than `ABRUPT` of the run is a steep decline and no collapse, unless an edit judged disabling explains it.

    Args:
        run: the run.
        found: its curves, from `evidence`.
    """
    breaks = [e for e in found if e.phases.collapse_step is not None]
    most = ABRUPT * max(run.n_edits, 1)
    broken = [e for e in breaks if e.phases.reason == LEVEL or _span(e)[1] - _span(e)[0] <= most]
    if not broken:
        return None
    clusters = [tuple(other for other in broken if _agree(one, other)) for one in broken]
    best = max(clusters, key=lambda c: (len({e.group for e in c}), len(c), -min(_step(e) for e in c)))
    sharpest = min(best, key=lambda e: (_span(e)[1] - _span(e)[0], _step(e)))
    low, high = (round(x) for x in _span(sharpest))
    others = tuple(e for e in found if e not in best)
    cause = _cause(run, low, high)
    # The guard's judgement is exact to the edit, which curves seldom are.
    step = cause.edit if cause is not None and cause.status in JUDGED else round(_step(sharpest))
    return Collapse(step, (low, high), best, others, cause)


def _step(e: Evidence) -> float:
    assert e.phases.collapse_step is not None
    return e.phases.collapse_step


def _span(e: Evidence) -> tuple[float, float]:
    assert e.phases.interval is not None
    return e.phases.interval


def _agree(a: Evidence, b: Evidence) -> bool:
    slack = max(a.stride, b.stride)
    return _span(a)[0] - slack <= _span(b)[1] and _span(b)[0] - slack <= _span(a)[1]


def spikes(run: RunFrames) -> tuple[Spike, ...]:
    """Return the edits the guard called disabling, or whose update was not finite, in their order."""
    return tuple(s for s in _sized(run) if s.status in ("disabling", "nonfinite", "rolled-back"))


def _sized(run: RunFrames) -> list[Spike]:
    sizes = run.journal.filter(pl.col("relative").is_finite() & (pl.col("relative") > 0))["relative"]
    usual = float(np.median(sizes.to_numpy())) if len(sizes) else float("nan")
    columns = run.journal.select("edit", "subject", "status", pl.col("relative").fill_null(float("nan")))
    return [Spike(edit, subject, status, size, size / usual) for edit, subject, status, size in columns.iter_rows()]


def _cause(run: RunFrames, low: int, high: int) -> Spike | None:
    """Return the edit between two steps that was judged disabling, else the largest if it stands out."""
    within = [s for s in _sized(run) if low <= s.edit <= high and s.status not in ("rolled-back", "failed", "undone")]
    judged = [s for s in within if s.status in JUDGED]
    largest = max(judged or within, key=lambda s: s.times if np.isfinite(s.times) else np.inf, default=None)
    return largest if largest is not None and (judged or largest.times >= SPIKE) else None
