"""The curves of a run: one figure a step, with its interval, for every metric that was measured."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.forgetting import forgotten
from errata.analysis.frames import RunFrames
from errata.analysis.intervals import mean_interval, wilson
from errata.analysis.windows import BUCKET, WINDOW, bucket, moving_average

__all__ = ["SUMMARY_COLUMNS", "Series", "curve", "per_edit", "score", "summary", "tasks", "windowed"]

Array = NDArray[np.float64]
SUMMARY_COLUMNS = pl.Schema(
    {
        "step": pl.Int64,
        "metric": pl.String,
        "window": pl.Int64,
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "n": pl.Int64,
    }
)
KINDS = ("efficacy", "paraphrase", "neighborhood")


@dataclass(frozen=True)
class Series:
    """A figure at each of some steps."""

    steps: Array
    values: Array

    def __len__(self) -> int:
        return len(self.steps)


def curve(run: RunFrames, metric: str) -> Series:
    """Average a metric over its units at every step; NaN in a row makes the step NaN."""
    frame = _units(run.metric(metric).lazy()).group_by("step").agg(pl.col("value").mean()).collect().sort("step")
    return Series(frame["step"].to_numpy().astype(float), frame["value"].to_numpy())


def per_edit(run: RunFrames, metric: str) -> Series:
    """Average a metric over each edit's prompts; one point an edit, at the number of the edit."""
    numbers = run.journal.select(pl.col("id").alias("edit_id"), pl.col("edit").alias("number"))
    frame = run.metric(metric).group_by("edit_id").agg(pl.col("value").mean())
    frame = frame.join(numbers, on="edit_id").sort("number")
    return Series(frame["number"].to_numpy().astype(float), frame["value"].to_numpy())


def _units(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Average the prompts of an edit, which are not independent; rows that belong to no edit are units themselves."""
    row = pl.when(pl.col("edit_id").fill_null("") == "").then(pl.int_range(pl.len())).alias("row")
    # The order is kept so that the same seed draws the same resamples.
    units = rows.group_by("step", "metric", "edit_id", row, maintain_order=True)
    return units.agg(pl.col("value").mean())


def score(efficacy: Array, paraphrase: Array, neighborhood: Array) -> Array:
    """Return the harmonic mean of the three, S = 3 / (1/ES + 1/PS + 1/NS) (ROME, 2202.05262, §3.4); 0 when one is 0."""
    parts = np.stack([efficacy, paraphrase, neighborhood])
    with np.errstate(divide="ignore"):
        return np.asarray(3 / (1 / parts).sum(axis=0))


def tasks(run: RunFrames) -> list[str]:
    """Return the names of the downstream tasks that were measured."""
    return sorted({m.split(".")[1] for m in run.metrics() if m.startswith("downstream.") and m.endswith(".f1")})


def windowed(run: RunFrames, what: str, rng: np.random.Generator) -> pl.DataFrame:
    """Return a measurement made right after each edit over 5 and 50 edits, as the first paper draws it.

    Args:
        run: the run.
        what: such as "success"; gives `efficacy.success@now` and its like, and for "success" `score@now`.
        rng: draws the intervals' resamples.

    Returns:
        A frame of `SUMMARY_COLUMNS`; only windows of 50 have intervals.
    """
    smooth: dict[str, Array] = {}
    frames = []
    for kind in KINDS:
        metric = f"{kind}.{what}@now"
        series = per_edit(run, metric)
        if not len(series):
            continue
        steps, fine = bucket(series.steps, series.values)
        ends = np.searchsorted(series.steps, steps, side="right")
        smooth[kind] = moving_average(series.values, ends)
        bounds = np.array([mean_interval(series.values[max(0, e - WINDOW) : e], rng, share=True) for e in ends])
        none, counts = np.full_like(bounds, np.nan), np.minimum(ends, WINDOW)
        frames.append(_frame(metric, BUCKET, steps, fine, none, np.diff(ends, prepend=0)))
        frames.append(_frame(metric, WINDOW, steps, smooth[kind], bounds, counts))
    same = len(smooth) == len(KINDS) and len(set(map(len, smooth.values()))) == 1
    if what == "success" and same:
        frames.append(_frame("score@now", WINDOW, steps, score(*(smooth[k] for k in KINDS)), none, counts))
    return pl.concat([pl.DataFrame(schema=SUMMARY_COLUMNS), *frames])


def _frame(metric: str, window: int, steps: Array, values: Array, bounds: Array, n: NDArray[np.int64]) -> pl.DataFrame:
    columns = {
        "step": steps.astype(np.int64),
        "metric": [metric] * len(steps),
        "window": [window] * len(steps),
        "value": values,
        "low": bounds[:, 0],
        "high": bounds[:, 1],
        "n": n.astype(np.int64),
    }
    return pl.DataFrame(columns, schema=SUMMARY_COLUMNS)


def summary(run: RunFrames, seed: int = 0) -> pl.DataFrame:
    """Return every curve of a run in one frame: step, metric, window, value, low, high, n.

    `window` is 1 for figures of one step, 5 and 50 for those right after an edit, averaged over so many edits. Rows
    that belong to an edit are averaged over its prompts first, so that `n` and the interval are over edits. Shares have
    Wilson's interval, means of other figures the bootstrap's; a single figure has none (NaN). Rows of single downstream
    items and texts are left out; the items give the interval of `downstream.<task>.accuracy`.

    Args:
        run: the run.
        seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    keep = ~pl.col("metric").str.contains(r"^text@|\.item$")
    units = _units(run.rows().filter(keep)).group_by("step", "metric", maintain_order=True)
    grouped = units.agg(pl.col("value")).collect().sort("metric", "step")
    right = pl.col("value").filter(pl.col("value") == 1).len().alias("right")
    items = run.rows().filter(pl.col("metric").str.ends_with(".item")).group_by("step", "metric").agg(right, pl.len())
    counted = {(s, m.removesuffix(".item")): (r, n) for s, m, r, n in items.collect().iter_rows()}
    rows = []
    for step, metric, values in grouped.iter_rows():
        array = np.array(values)
        rate = ".success@" in metric or ".exact" in metric
        low, high = mean_interval(array, rng, share=rate) if len(array) > 1 else (np.nan, np.nan)
        n = len(array)
        if metric.endswith(".accuracy") and (step, metric.removesuffix(".accuracy")) in counted:
            hits, n = counted[step, metric.removesuffix(".accuracy")]
            low, high = wilson(hits, n)
        rows.append((step, metric, 1, float(array.mean()), low, high, n))
    steps = pl.DataFrame(rows, schema=SUMMARY_COLUMNS, orient="row")
    lost = forgotten(run).select(SUMMARY_COLUMNS.names())
    return pl.concat([steps, *(windowed(run, what, rng) for what in ("success", "exact")), lost])
