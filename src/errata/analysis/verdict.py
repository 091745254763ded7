"""A run's verdict: how many edits were safe, what went gradually, what collapsed, and which edits did it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from errata.analysis.collapse import Collapse, Evidence, Spike, evidence, find_collapse, spikes
from errata.analysis.curves import Series, curve
from errata.analysis.frames import RunFrames
from errata.analysis.survival import Survival, lifetimes, survival
from errata.analysis.windows import WINDOW, bucket, moving_average

__all__ = ["Verdict", "judge"]

TOLERANCE = 0.1
"""How much of what the model could before may be lost before edits no longer count as safe."""
_KEPT = ("forgetting", "knowledge", "downstream")
_NEIGHBORS = "neighborhood.success@now"
_TAKEN = "efficacy.success@now"
_MOST = 0.9
"""With fewer new edits taken than this, safety says little, and the verdict says so."""
_CHANCE = {_NEIGHBORS: 0.5}
"""What guessing gives, where it is known; of answers to tasks it is not."""
_SETTLED = 20
"""Edits before a mean over new edits says anything about their neighbors."""


@dataclass(frozen=True)
class Verdict:
    """What a run came to.

    Args:
        edits: how many edits were made.
        planned: how many the run was to make.
        safe: the last edit up to which everything followed stayed within the tolerance; None when nothing was followed.
        limit: the curve that ended it; None when nothing did.
        gradual_start: the first edit from which something already known declines, before any collapse; None if nothing.
        gradual: the curve where that was seen first.
        collapse: where the run collapses; None when it does not.
        disabling: the edits judged disabling or not finite.
        curves: every followed curve with its phases.
        survival: how long edits live.
        taken: the share of new edits that took, of those before any collapse; None when that was not measured.
        unable: what the unedited model could not do, so that it had nothing to lose.
    """

    edits: int
    planned: int
    safe: int | None
    limit: Evidence | None
    gradual_start: int | None
    gradual: Evidence | None
    collapse: Collapse | None
    disabling: tuple[Spike, ...]
    curves: tuple[Evidence, ...]
    survival: Survival
    taken: float | None = None
    unable: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The verdict's first sentence, without its full stop."""
        if self.safe is None:
            return f"{_count(self.edits)} made; nothing that shows their cost was measured"
        few = f", but only {self.taken:.0%} of the new edits took" if self.few_taken else ""
        if self.limit is None and self.collapse is None:
            return f"Safe to {_count(self.safe)}, the whole run{few}"
        return f"Safe to {_count(self.safe)}{few}" if self.safe else "Not safe even for the first edits"

    @property
    def few_taken(self) -> bool:
        """Whether so few new edits took that safety says little."""
        return self.taken is not None and self.taken < _MOST

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdict in words, headline first."""
        return (self.headline + ".", *self._details())

    def __str__(self) -> str:
        return " ".join(self.sentences)

    def _details(self) -> Iterator[str]:
        if self.limit is not None and self.safe is not None:
            yield f"After that {_loss(self.limit, self.safe)}."
        if self.few_taken and self.safe:
            yield "Edits that do not take cost little, so their safety says nothing good about the method."
        elif self.few_taken:
            yield f"Only {self.taken:.0%} of the new edits took."
        if self.unable:
            yield f"Not judged, since the unedited model cannot do it either: {_listed(list(self.unable))}."
        if self.gradual_start is not None and self.gradual is not None:
            yield f"Gradual decline from edit {self.gradual_start} on, first seen in {self.gradual.label}."
        if self.collapse is not None:
            yield from _collapse_words(self.collapse)
        elif self.edits:
            short = [e.label for e in self.curves if e.phases.reason.startswith("only")]
            yield (
                "No collapse was found."
                if len(short) < len(self.curves)
                else "Too few points to tell whether it collapses."
            )
        cause = self.collapse.cause if self.collapse else None
        if self.disabling and [s.edit for s in self.disabling] != [cause.edit if cause else None]:
            names = ", ".join(f"{s.edit} ({s.subject})" for s in self.disabling[:3])
            more = f" and {len(self.disabling) - 3} more" if len(self.disabling) > 3 else ""
            look = "looks" if len(self.disabling) == 1 else "look"
            yield f"{_count(len(self.disabling))} {look} disabling by size of update: {names}{more}."
        yield from _survival_words(self.survival)
        if self.edits < self.planned:
            yield f"The run holds {self.edits:,} of {_count(self.planned)}."


def judge(run: RunFrames, seed: int = 0) -> Verdict:
    """Judge a run from its rows.

    Safe is the last measured edit before which every followed ability (earlier edits recalled, neighbors of the last 50
    edits, unrelated facts, each downstream task) kept at least 1 − `TOLERANCE` of its level on the unedited model (of
    earlier edits: of all), and which lies before the collapse. A reading below counts when the next one is below too,
    or none follows. Abilities that the unedited model does not have are left out: they have nothing to lose.

    Args:
        run: the run.
        seed: of the bootstraps.
    """
    curves = evidence(run, seed)
    collapse = find_collapse(run, curves)
    edits = run.n_edits
    followed = [e for e in curves if e.group in _KEPT and e.series.steps[-1] > 0]
    followed += [_smoothed(run, e) for e in curves if e.key == _NEIGHBORS and e.series.steps[-1] >= _SETTLED]
    kept = [e for e in followed if _able(e)]
    bounds = [(_safe_until(e, edits), e) for e in kept]
    safe, limit = min(bounds, key=lambda b: b[0], default=(None, None))
    if safe == edits:
        limit = None
    if safe is not None and collapse is not None and collapse.interval[0] - 1 < safe:
        safe, limit = max(0, collapse.interval[0] - 1), None
    starts = [(e.phases.gradual_start, e) for e in kept if e.phases.gradual_start is not None]
    before = [s for s in starts if collapse is None or s[0] < collapse.interval[0]]
    start, gradual = min(before, key=lambda s: s[0], default=(None, None))
    return Verdict(
        edits=edits,
        planned=int(run.info.get("stream", {}).get("n", edits)),
        safe=safe,
        limit=limit,
        gradual_start=None if start is None else max(1, round(start)),
        gradual=gradual,
        collapse=collapse,
        disabling=spikes(run),
        curves=curves,
        survival=survival(lifetimes(run)),
        taken=_taken(curves, collapse),
        unable=tuple(e.label for e in followed if not _able(e)),
    )


def _taken(curves: tuple[Evidence, ...], collapse: Collapse | None) -> float | None:
    """Return the share of new edits that took before the collapse; of a dead model, none do."""
    series = next((e.series for e in curves if e.key == _TAKEN), None)
    if series is None:
        return None
    before = series.steps < (collapse.interval[0] if collapse else math.inf)
    return float(np.nan_to_num(series.values[before]).mean()) if before.any() else None


def _able(e: Evidence) -> bool:
    """Return whether there is something to lose, as far as the unedited model was measured."""
    return e.series.steps[0] > 0 or bool(e.series.values[0] > _CHANCE.get(e.key, 0.0))


def _smoothed(run: RunFrames, e: Evidence) -> Evidence:
    """Return a curve of one figure an edit as means over 50, after its level on the unedited model."""
    steps, _ = bucket(e.series.steps, e.series.values)
    smooth = moving_average(e.series.values, np.searchsorted(e.series.steps, steps, side="right"), WINDOW)
    base = curve(run, e.key.replace("@now", "@base")).values
    settled = steps >= _SETTLED
    series = Series(
        np.append(np.zeros(len(base[:1])), steps[settled]),
        np.append(base[:1], smooth[settled]),
    )
    return replace(e, series=series)


def _good(e: Evidence) -> Series:
    """Return the curve as a share kept of what there was at first; dead counts as nothing kept."""
    values = np.nan_to_num(e.series.values, nan=math.inf if e.group == "forgetting" else 0.0)
    if e.group == "forgetting":
        return Series(e.series.steps, 1 - np.minimum(values, 1.0))
    return Series(e.series.steps, values / values[0] if values[0] > 0 else np.zeros_like(values))


def _safe_until(e: Evidence, edits: int) -> int:
    share = _good(e)
    below = share.values < 1 - TOLERANCE
    bad = np.flatnonzero(below & np.append(below[1:], True))
    if not len(bad):
        return edits
    return round(share.steps[bad[0] - 1]) if bad[0] else 0


def _loss(e: Evidence, safe: int) -> str:
    later = e.series.steps > safe
    step, value = e.series.steps[later][0], e.series.values[later][0]
    if e.group == "forgetting":
        return f"{value:.0%} of the earlier edits are forgotten at edit {step:.0f}"
    return f"{e.label} {_fall(e)} from {_figure(e.series.values[0])} to {_figure(value)} at edit {step:.0f}"


def _collapse_words(c: Collapse) -> Iterator[str]:
    low, high = c.interval
    span = f" (between {low} and {high})" if low < high else ""
    order = {"downstream": 0, "knowledge": 1, "forgetting": 2, "proficiency": 3, "language": 4}
    shown = sorted(c.agreeing, key=lambda e: (order[e.group], -abs(e.phases.before - e.phases.after)))
    yield f"Collapse at edit {c.step}{span}, where {_listed([_levels(e) for e in shown[:3]])}."
    total = len(c.agreeing) + len(c.others)
    yield f"{'All' if not c.others else f'{len(c.agreeing)} of'} {total} followed curves break there."
    if c.cause is not None:
        what = (
            "its update is not finite"
            if c.cause.status == "nonfinite"
            else f"its update is {c.cause.times:.0f} times the usual size"
        )
        yield f"The edit that did it is most likely number {c.cause.edit}, {c.cause.subject}: {what}."
    else:
        yield "No single update stands out there."


def _levels(e: Evidence) -> str:
    """Say what a curve falls from and to; forgetting is said as recall, and perplexity without its logarithm."""
    before, after = e.phases.before, e.phases.after
    if e.group == "forgetting":
        return f"recall of earlier edits falls from {_figure(1 - before)} to {_figure(1 - after)}"
    if e.group == "language":
        return f"perplexity rises from {math.exp(min(before, 700)):.3g} to {_figure(math.exp(min(after, 700)), '.3g')}"
    return f"{e.label} {_fall(e)} from {_figure(before)} to {_figure(after)}"


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _fall(e: Evidence) -> str:
    return "falls" if e.group == "downstream" else "fall"


def _survival_words(s: Survival) -> Iterator[str]:
    if not s.n or not s.events:
        return
    if math.isfinite(s.half_life):
        low, high = s.half_life_interval
        span = f" ({low:.0f} to {high:.0f})" if math.isfinite(high) else f" (at least {low:.0f})"
        yield f"Half of the edits are forgotten after {s.half_life:.0f} further edits{span}."
    else:
        yield f"{s.events} of {s.n} edits were forgotten by the end."


def _figure(value: float, form: str = ".2f") -> str:
    return f"{value:{form}}" if math.isfinite(value) else "nothing (dead)"


def _count(n: int) -> str:
    return f"{n:,} edit{'' if n == 1 else 's'}"
