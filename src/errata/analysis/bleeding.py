"""What edits bleed into: facts that nobody edited, by what they have in common with the edits made so far."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from errata.analysis.frames import RunFrames
from errata.errors import RunError

__all__ = ["KINDS", "bled", "kinds"]

KINDS = (
    "same subject",
    "same relation, the new object of one edit and the old of another",
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
        taught, taken = (relation, wanted) in new, (relation, wanted) in old
        fits = (subject in subjects, taught and taken, taught, taken, relation in relations)
        return next((name for name, fit in zip(KINDS, fits, strict=False) if fit), KINDS[-1])

    return [kind(*row) for row in known.select("subject", "relation", "object").iter_rows()]


def bled(run: RunFrames, known: pl.DataFrame) -> pl.DataFrame:
    """Return step, kind, prompt_id, kept, change of every fact that no edit touches and that was right before any edit.

    At every step after 0. kept: whether it is still exact, a missing answer being a lost one. change: of the mean
    log-probability of a token of the true object, against the unedited model, in nats.

    Args:
        run: with rows of the unrelated-facts probe.
        known: prompt_id, subject, relation, object of every fact that the probe may ask for.

    Raises:
        RunError: when a fact is asked for that was not asked before the first edit, or is not among the known.
    """
    rows = pl.concat([run.metric("unrelated.exact"), run.metric("same_subject.exact")])
    right = (pl.col("value") == 1).fill_null(False)
    before = rows.filter(pl.col("step") == 0).select(
        "prompt_id", right.alias("right"), pl.col("logp_true").alias("before")
    )
    later = rows.filter(pl.col("step") > 0)
    for there, what in ((before, "before the first edit"), (known, "in the model's world")):
        if len(lost := later.join(there, on="prompt_id", how="anti")):
            raise RunError(
                f"{run.path}: {lost['prompt_id'].n_unique()} facts asked for after edits are not {what}, such as "
                f"{lost['prompt_id'][0]!r}. What became of them cannot be said; make the run anew, with a larger `n` "
                f"of the probe `unrelated`."
            )
    asked = later.join(before.filter("right"), on="prompt_id", maintain_order="left")
    asked = asked.join(known, on="prompt_id", maintain_order="left")
    made = [
        part.with_columns(pl.Series("kind", kinds(run.facts[: int(step)], part), dtype=pl.String))
        for (step,), part in asked.group_by("step", maintain_order=True)
    ]
    change = (pl.col("logp_true") - pl.col("before")).alias("change")
    kept = right.cast(pl.Float64).alias("kept")
    return pl.concat(made).select(pl.col("step").cast(pl.Int64), "kind", "prompt_id", kept, change)
