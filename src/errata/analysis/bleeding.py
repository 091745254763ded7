"""What edits bleed into: facts that nobody edited, by what they have in common with an edit made so far."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from errata.analysis.frames import RunFrames

__all__ = ["KINDS", "bled", "kinds"]

KINDS = (
    "same subject",
    "same relation, an edit's new object",
    "same relation, an edit's old object",
    "same relation, another object",
    "nothing in common",
)
"""In the order in which they are asked: a fact is of the first kind that fits."""


def kinds(edits: Sequence[Mapping[str, Any]], known: pl.DataFrame) -> list[str]:
    """Say of every known fact what it has in common with some edits.

    Args:
        edits: facts as a run directory holds them: subject, relation, target_new, target_true.
        known: prompt_id, subject, relation, object.
    """
    subjects = {e["subject"] for e in edits}
    new = {(e["relation"], e["target_new"]) for e in edits}
    old = {(e["relation"], e["target_true"]) for e in edits}
    relations = {e["relation"] for e in edits}

    def kind(subject: str, relation: str, wanted: str) -> str:
        fits = (subject in subjects, (relation, wanted) in new, (relation, wanted) in old, relation in relations)
        return next((name for name, fit in zip(KINDS, fits, strict=False) if fit), KINDS[-1])

    return [kind(*row) for row in known.select("subject", "relation", "object").iter_rows()]


def bled(run: RunFrames, known: pl.DataFrame) -> pl.DataFrame:
    """Return step, kind, prompt_id, kept, change of every fact asked for that no edit touches, at every step after 0.

    kept: whether it is still exact, a missing answer being a lost one. change: of the mean log-probability of a token
    of the true object, against the unedited model, in nats.

    Args:
        run: with rows of the unrelated-facts probe.
        known: prompt_id, subject, relation, object of every fact that the probe may ask for.
    """
    rows = pl.concat([run.metric("unrelated.exact"), run.metric("same_subject.exact")])
    before = rows.filter(pl.col("step") == 0).select("prompt_id", pl.col("logp_true").alias("before"))
    asked = rows.filter(pl.col("step") > 0).join(before, on="prompt_id").join(known, on="prompt_id")
    made = []
    for (step,), part in asked.group_by("step", maintain_order=True):
        edits = run.facts[: int(step)]
        made.append(part.with_columns(pl.Series("kind", kinds(edits, part))))
    kept = (pl.col("value") == 1).fill_null(False).cast(pl.Float64).alias("kept")
    change = (pl.col("logp_true") - pl.col("before")).alias("change")
    return pl.concat(made).select(pl.col("step").cast(pl.Int64), "kind", "prompt_id", kept, change)
