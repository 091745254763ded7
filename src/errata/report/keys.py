"""The key figures below the verdict."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from errata.analysis.collapse import Evidence
from errata.analysis.verdict import Verdict
from errata.report.words import DASH, share, span

__all__ = ["Key", "keys"]


@dataclass(frozen=True)
class Key:
    """A figure with its label and what it should be read beside; `bad` is set in red."""

    label: str
    value: str
    detail: str
    bad: bool = False


def keys(verdict: Verdict, curves: pl.DataFrame) -> list[Key]:
    """Return the key figures of a run.

    Args:
        verdict: its verdict.
        curves: its summary.
    """
    c = verdict.collapse
    safe = DASH if verdict.safe is None else f"{verdict.safe:,}"
    made = [
        Key(
            "Safe edits",
            safe,
            f"of {verdict.edits:,} made",
            bad=verdict.safe is not None and verdict.safe < verdict.edits,
        ),
        Key(
            "Collapse",
            f"{c.step:,}",
            f"within {span(*c.interval)}" if c.interval[0] < c.interval[1] else "to the edit",
            True,
        )
        if c
        else Key("Collapse", "none", f"in {verdict.edits:,} edits"),
    ]
    by_key = {e.key: e for e in verdict.curves}
    taken = "efficacy.success@now"
    made += [
        replace(_around(label, by_key[key], verdict), bad=verdict.few_taken and key == taken)
        for key, label in (
            (taken, "New edits taken"),
            ("forgotten.current", "Earlier edits recalled"),
            ("unrelated.exact", "Unrelated facts kept"),
        )
        if key in by_key
    ]
    tasks = (
        curves.filter(pl.col("metric").str.contains(r"^downstream\..*\.f1$"))
        .group_by("step")
        .agg(pl.col("value").mean())
    )
    if len(tasks):
        values = tasks.sort("step")["value"]
        made.append(Key("Downstream F1", share(values[-1]), f"{share(values[0])} before any edit"))
    s = verdict.survival
    if s.n:
        low, high = s.half_life_interval
        known = np.isfinite(s.half_life)
        until = f"{low:.0f} to {high:.0f}" if np.isfinite(high) else f"at least {low:.0f}"
        detail = f"further edits ({until})" if known else "more than half outlived the run"
        made.append(Key("Half-life of an edit", f"{s.half_life:.0f}" if known else DASH, detail))
    return made


def _around(label: str, e: Evidence, verdict: Verdict) -> Key:
    """Compare a curve before the collapse with the end; of series of one figure an edit, means are taken."""
    steps, values = e.series.steps, 1 - e.series.values if e.group == "forgetting" else e.series.values
    at = verdict.collapse.interval[0] if verdict.collapse else None
    mean = e.group == "proficiency"
    if at is None or not (steps < at).any() or not (steps >= at).any():
        value = float(values.mean() if mean else values[-1])
        return Key(label, share(value), "over the whole run" if mean else "at the end")
    before, after = values[steps < at], values[steps >= at]
    first, last = (before.mean(), after.mean()) if mean else (before[-1], after[-1])
    return Key(
        label, share(float(first)), f"before the collapse, {share(float(last))} {'after it' if mean else 'at the end'}"
    )
