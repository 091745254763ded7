"""Whether forgetting depends on an edit's age: R[i, j], edit i re-tested at step j, and what follows from it."""

import polars as pl

from errata.analysis.frames import RunFrames
from errata.analysis.shared import fact_names

__all__ = ["age_matrix", "backward_transfer", "by_age", "newest_against_oldest"]


def age_matrix(run: RunFrames) -> pl.DataFrame:
    """Return R[i, j] as rows edit (i), fact, step (j), kept: whether edit i is exact at step j, for every re-test.

    The diagonal, step = edit, is the test right after the edit where no re-test stands there (GEM, 1706.08840, §2.1,
    whose R has tasks in the place of edits). A dead model's missing answer counts as not kept.
    """
    fact = pl.col("id").replace_strict(fact_names(run), default=pl.col("id"), return_dtype=pl.String).alias("fact")
    numbers = run.journal.select(pl.col("id").alias("edit_id"), fact, pl.col("edit").cast(pl.Int64))
    found = []
    for when in ("retest", "now"):
        rows = run.metric(f"efficacy.exact@{when}").join(numbers, on="edit_id")
        kept = (pl.col("value") == 1).fill_null(False).cast(pl.Float64).alias("kept")
        found.append(rows.select("edit", "fact", pl.col("step").cast(pl.Int64), kept))
    tests = pl.concat(found).unique(["edit", "step"], keep="first", maintain_order=True)
    return tests.filter(pl.col("step") >= pl.col("edit")).sort("edit", "step")


def backward_transfer(matrix: pl.DataFrame) -> pl.DataFrame:
    """Return fact, value: R[i, T] − R[i, i] of every edit but the last.

    Their mean is the backward transfer (1706.08840, eq. 3).

    Args:
        matrix: of one run, as `age_matrix` returns it; T is its last step.
    """
    last = matrix.filter(pl.col("step") == pl.col("step").max())
    first = matrix.sort("edit", "step").group_by("edit", maintain_order=True).first()
    both = last.join(first, on="edit", suffix="_made", maintain_order="left").filter(pl.col("edit") < pl.col("step"))
    return both.select("fact", (pl.col("kept") - pl.col("kept_made")).alias("value"))


def by_age(matrix: pl.DataFrame, width: int = 10) -> pl.DataFrame:
    """Return edit, fact, age, value: the means over each edit's re-tests at ages of one band, named by its upper end.

    Only edits that were exact when made are followed. Band 0 is the edit itself; further bands are (0, width], ...

    Args:
        matrix: of one run.
        width: of a band, in edits.
    """
    aged = _taken(matrix).with_columns((pl.col("step") - pl.col("edit")).alias("age"))
    band = ((pl.col("age") + width - 1) // width * width).alias("age")
    return (
        aged.with_columns(band)
        .group_by("edit", "fact", "age")
        .agg(pl.col("kept").mean().alias("value"))
        .sort("edit", "age")
    )


def newest_against_oldest(matrix: pl.DataFrame, width: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return fact, value of the newest and of the oldest edits exact when made: whether they are kept at the last step.

    There all edits lie under the same weights, so that what differs is their age alone.

    Args:
        matrix: of one run.
        width: how many edits make the newest, and the oldest.
    """
    at = matrix["step"].max()
    tested = _taken(matrix).filter(pl.col("step") == at).select("edit", "fact", pl.col("kept").alias("value"))
    return tested.filter(pl.col("edit") > pl.lit(at) - width), tested.filter(pl.col("edit") <= width)


def _taken(matrix: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of edits whose first test, right after they were made, is exact."""
    first = matrix.sort("edit", "step").group_by("edit", maintain_order=True).first()
    return matrix.join(first.filter(pl.col("kept") == 1).select("edit"), on="edit", how="semi").sort("edit", "step")
