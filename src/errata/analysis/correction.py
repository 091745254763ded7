"""What a list of corrections came to: each fact before and after, what it cost elsewhere, how many more are safe."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from errata.analysis.frames import RunFrames, journal_entries
from errata.analysis.intervals import bootstrap_mean, wilson

__all__ = ["Correction", "Cost", "FactOutcome", "Room", "correction"]

LEAST = 10
"""Edits whose canary must be known before anything is said about further ones."""
APPLIED = ("applied", "disabling", "nonfinite")


@dataclass(frozen=True)
class FactOutcome:
    """One fact before and after.

    Args:
        edit: its number.
        id, subject, prompt, target: the fact.
        status: as in the journal.
        reason: the guard's, or why it failed.
        before, after: how the model continued the prompt; after the last edit, or after its own where it was refused.
        p_before, p_after: probability of the new object, the geometric mean over its tokens.
        took: whether the model says the new object after the last edit, each token the most probable one; None where
            a later edit contradicts it or nothing was measured.
    """

    edit: int
    id: str
    subject: str
    prompt: str
    target: str
    status: str
    reason: str
    before: str
    after: str
    p_before: float
    p_after: float
    took: bool | None


@dataclass(frozen=True)
class Cost:
    """A figure about what nobody edited, before the first and after the last edit."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Room:
    """How many more edits fit into what is left of the canary's budget, at the pace of the last ones.

    Args:
        level: the canary's KL now; NaN where the guard was off.
        budget: the most that it may reach.
        more: edits; None where that is not known.
        low, high: the 95 % interval; None where, at that end of it, the canary has not been moving.
        basis: from how many edits the pace is taken.
    """

    level: float
    budget: float
    more: int | None
    low: int | None
    high: int | None
    basis: int

    def __str__(self) -> str:
        if math.isnan(self.level):
            return "how many more are safe is unknown: the guard was off, so that no canary was watched."
        if self.basis < LEAST:
            return f"how many more are safe is unknown: too few edits ({self.basis}; {LEAST} are needed)."
        if self.low is None:
            return f"the canary has not been moving in the last {self.basis} edits: no limit is seen."
        if self.more is None:
            return f"the canary has hardly been moving: more than {self.low} further edits fit into the budget."
        high = "no limit seen" if self.high is None else str(self.high)
        return (
            f"about {self.more} more edits fit into the budget (95 % interval {self.low} to {high}) at the pace of the "
            f"last {self.basis}."
        )


@dataclass(frozen=True)
class Correction:
    """The verdict.

    Args:
        facts: every fact, in the order of their edits.
        costs: what was not edited.
        room: how many more are safe.
        gentler: edits that the guard made with another setting of the method.
        damped: edits that it made smaller.
    """

    facts: tuple[FactOutcome, ...]
    costs: tuple[Cost, ...]
    room: Room
    gentler: int
    damped: int

    @property
    def took(self) -> int:
        """How many facts the model says now."""
        return sum(fact.took is True for fact in self.facts)

    @property
    def refused(self) -> tuple[FactOutcome, ...]:
        """Facts that were refused or failed."""
        return tuple(fact for fact in self.facts if fact.status in ("rolled-back", "failed"))

    @property
    def took_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share that took."""
        return wilson(self.took, len(self.facts))


def correction(run: RunFrames) -> Correction:
    """Judge a run directory as a list of corrections.

    Args:
        run: of `errata edit` or `errata run`, with the probes `proficiency` and `text` at least.
    """
    entries = journal_entries(run.path / "journal.jsonl")
    facts = {str(fact["id"]): fact for fact in run.facts}
    rows = run.rows("proficiency").filter(pl.col("prompt_id") == "efficacy:0").collect()
    logp = _by_edit(rows.filter(pl.col("metric").str.starts_with("efficacy.exact")), "logp_new")
    exact = _by_edit(rows.filter(pl.col("metric").str.starts_with("efficacy.exact")), "value")
    texts = _by_edit(run.rows("text").collect(), "text")
    outcomes = []
    for entry in entries:
        fact, key = facts[entry["id"]], entry["id"]
        when = "end" if entry["status"] in APPLIED else "now"
        said = exact.get((key, when))
        outcomes.append(
            FactOutcome(
                edit=entry["edit"],
                id=key,
                subject=fact["subject"],
                prompt=fact["prompt"].replace("{}", fact["subject"]),
                target=fact["target_new"],
                status=entry["status"],
                reason=entry.get("verdict", ""),
                before=str(texts.get((key, "base"), "")).strip(),
                after=str(texts.get((key, when), "")).strip(),
                p_before=math.exp(logp.get((key, "base"), math.nan)),
                p_after=math.exp(logp.get((key, when), math.nan)),
                took=None if said is None or entry["status"] == "undone" else said == 1.0,
            )
        )
    made = [entry for entry in entries if entry["status"] in APPLIED]
    return Correction(
        facts=tuple(outcomes),
        costs=tuple(_costs(run)),
        room=_room(made, run.info["config"].get("guard") or {}),
        gentler=sum(entry.get("setting", 0) > 0 for entry in made),
        damped=sum(entry.get("scale", 1.0) < 1.0 for entry in made),
    )


def _by_edit(rows: pl.DataFrame, column: str) -> dict[tuple[str, str], Any]:
    """Return a column by edit and by when it was measured, the part of the metric after the @."""
    return {
        (edit, metric.partition("@")[2]): value
        for edit, metric, value in rows.select("edit_id", "metric", column).iter_rows()
    }


def _costs(run: RunFrames) -> list[Cost]:
    """Return the means of what was measured before the first edit and after the last."""
    metrics = run.metrics()
    wanted: list[str] = [m for m in ("unrelated.exact", "same_subject.exact", "perplexity") if m in metrics]
    wanted += [m for m in metrics if m.startswith("downstream.") and m.endswith((".f1", ".accuracy"))]
    found = []
    for name in wanted:
        rows = run.metric(name)
        first, last = (rows.filter(pl.col("step") == step)["value"] for step in (0, rows["step"].max()))
        found.append(Cost(name, _mean(first), _mean(last)))
    for name in ("neighborhood.success", "locality.exact"):
        # What is kept is kept of what the unedited model says: all of it, before the first edit.
        before, after = (run.metric(f"{name}@{when}")["value"].drop_nans() for when in ("base", "end"))
        if len(after):
            found.append(Cost(name, _mean(before) if len(before) else 1.0, _mean(after)))
    return found


def _mean(values: pl.Series) -> float:
    return float(values.to_numpy().mean())


def _room(made: Sequence[Mapping[str, Any]], guard: Mapping[str, Any]) -> Room:
    """Extrapolate the canary's pace over the later half of the edits that are in the weights."""
    levels = [
        entry["signals"]["kl"] for entry in made if "kl" in entry.get("signals", {}) and entry["edit"] == entry["step"]
    ]
    budget = float(guard.get("budget", math.nan))
    if not levels or not guard.get("enabled"):
        return Room(math.nan, budget, None, None, None, 0)
    steps = np.diff([0.0, *levels])
    recent = steps[len(steps) // 2 :] if len(steps) >= 2 * LEAST else steps
    left = max(budget - levels[-1], 0.0)
    if len(recent) < LEAST:
        return Room(levels[-1], budget, None, None, None, len(recent))
    low, high = bootstrap_mean(recent, np.random.default_rng(0))
    size = made[0]["step"] - made[0]["edit"] + 1
    count = [size * left / pace if pace > 0 else None for pace in (float(recent.mean()), high, low)]
    more, least, most = (None if c is None else math.floor(c + 1e-6) for c in count)  # sums of floats fall a hair short
    return Room(levels[-1], budget, more, least, most, len(recent))
