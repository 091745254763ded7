"""The rows of the edits table."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from errata.analysis.frames import RunFrames

__all__ = ["EditRow", "edit_rows"]

MARKED = ("disabling", "nonfinite", "rolled-back", "failed")


@dataclass(frozen=True)
class EditRow:
    """One edit as the report shows it; None is what was not measured.

    Args:
        edit: its number.
        subject: the subject.
        before: the prompt up to the subject.
        after: the prompt from the subject on.
        target_true: the object it had.
        target_new: the object it was given.
        status: the journal's word.
        verdict: the guard's or the editor's reason.
        marked: whether the status is out of the ordinary.
        now: share of success right after the edit (exactness where success is not defined).
        end: the same at the end of the run.
        relative: ‖ΔW‖/‖W₀‖.
        texts: what the model says after the prompt: (when, text).
    """

    edit: int
    subject: str
    before: str
    after: str
    target_true: str
    target_new: str
    status: str
    verdict: str
    marked: bool
    now: float | None
    end: float | None
    relative: float | None
    texts: tuple[tuple[str, str], ...]


def edit_rows(run: RunFrames) -> list[EditRow]:
    """Return the edits of a run in their order."""
    facts = {str(f.get("id")): f for f in run.facts}
    values = {when: _efficacy(run, when) for when in ("now", "end")}
    texts = {
        word: dict(run.metric(f"text@{when}").select("edit_id", "text").iter_rows())
        for word, when in (("before", "base"), ("after", "now"), ("end", "end"))
    }
    rows = []
    for entry in run.journal.iter_rows(named=True):
        key, status = entry["id"], entry["status"]
        fact = facts.get(key, {})
        before, _, after = str(fact.get("prompt", "{}")).partition("{}")
        size = entry["relative"]
        rows.append(
            EditRow(
                edit=entry["edit"],
                subject=entry["subject"],
                before=before,
                after=after,
                target_true=str(fact.get("target_true", "")),
                target_new=str(fact.get("target_new", "")),
                status=status,
                verdict=entry["verdict"] or "",
                marked=status in MARKED,
                now=values["now"].get(key),
                end=values["end"].get(key),
                relative=None if size is None or (size == 0 and status != "applied") else size,
                texts=tuple((word, found[key]) for word, found in texts.items() if key in found),
            )
        )
    return rows


def _efficacy(run: RunFrames, when: str) -> Mapping[str, float]:
    """Return each edit's success, or its exactness where it has no true object to compare with."""
    found: dict[str, float] = {}
    for what in ("exact", "success"):
        frame = run.metric(f"efficacy.{what}@{when}").group_by("edit_id").agg(pl.col("value").mean())
        found |= {key: math.nan if value is None else value for key, value in frame.iter_rows()}
    return found
