"""The curves of a run: one figure a step, with its interval, for every metric that was measured."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.classified import f1_interval, labelled_items
from errata.analysis.forgetting import forgotten
from errata.analysis.frames import RunFrames
from errata.analysis.intervals import mean_interval, wilson
from errata.analysis.windows import BUCKET, WINDOW, bucket, moving_average

__all__ = [
    "KINDS",
    "SCORERS",
    "SUMMARY_COLUMNS",
    "Series",
    "chance_line",
    "curve",
    "is_share",
    "main_figures",
    "mean_of_tasks",
    "most_asked",
    "per_edit",
    "score",
    "summary",
    "tasks",
    "windowed",
]

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
        "missing": pl.Int64,
    }
)
KINDS = ("efficacy", "paraphrase", "neighborhood")
SCORERS = ("success", "exact", "generated", "judged")
"""By what an answer is scored: probabilities compared, every token the argmax, free text matched, free text judged."""


@dataclass(frozen=True)
class Series:
    """A figure at each of some steps."""

    steps: Array
    values: Array

    def __len__(self) -> int:
        return len(self.steps)


def curve(run: RunFrames, metric: str, *, lost: bool = False) -> Series:
    """Average a metric over its units at every step; a step where nothing has a value is NaN.

    Args:
        run: the run.
        metric: its name.
        lost: whether a missing value counts as 0, which is how a run is judged; otherwise the mean is of what is there.
    """
    rows = _units(run.metric(metric).lazy(), lost=lost)
    frame = rows.group_by("step").agg(_mean(lost)).collect().sort("step")
    return Series(frame["step"].to_numpy().astype(float), frame["value"].to_numpy())


def per_edit(run: RunFrames, metric: str) -> Series:
    """Average a metric over each edit's prompts; one point an edit, at its number; NaN where no prompt has a value."""
    numbers = run.journal.select(pl.col("id").alias("edit_id"), pl.col("edit").alias("number"))
    frame = run.metric(metric).group_by("edit_id").agg(_mean())
    frame = frame.join(numbers, on="edit_id").sort("number")
    return Series(frame["number"].to_numpy().astype(float), frame["value"].to_numpy())


def _mean(lost: bool = False) -> pl.Expr:
    """Average what has a value; NaN where nothing has."""
    known = pl.col("value").drop_nans()
    mean = known.sum() / pl.len() if lost else known.mean()
    return pl.when(known.len() > 0).then(mean).otherwise(float("nan")).alias("value")


def _units(rows: pl.LazyFrame, *, lost: bool = False) -> pl.LazyFrame:
    """Average the prompts of an edit, which are not independent; rows that belong to no edit are units themselves."""
    row = pl.when(pl.col("edit_id").fill_null("") == "").then(pl.int_range(pl.len())).alias("row")
    # The order is kept so that the same seed draws the same resamples.
    units = rows.group_by("step", "metric", "edit_id", row, maintain_order=True)
    return units.agg(_mean(lost), pl.col("value").is_nan().sum().alias("missing"))


def score(efficacy: Array, paraphrase: Array, neighborhood: Array) -> Array:
    """Return the harmonic mean of the three, S = 3 / (1/ES + 1/PS + 1/NS) (ROME, 2202.05262, §3.4); 0 when one is 0."""
    parts = np.stack([efficacy, paraphrase, neighborhood])
    with np.errstate(divide="ignore"):
        return np.asarray(3 / (1 / parts).sum(axis=0))


def most_asked(run: RunFrames, metrics: Sequence[str]) -> str:
    """Return the first of these metrics that the most edits have.

    Success is defined for edits with a true object alone: of facts of which few have one it would be the mean of few.

    Args:
        run: the run.
        metrics: what is wanted most first.
    """
    values = {metric: per_edit(run, metric).values for metric in metrics}
    return max(metrics, key=lambda metric: (bool(len(_known(values[metric]))), len(values[metric])))


def tasks(run: RunFrames) -> dict[str, str]:
    """Return the downstream tasks that were measured, each with the name of its main figure: F1, else accuracy."""
    return main_figures(run.metrics())


def main_figures(metrics: Iterable[str]) -> dict[str, str]:
    """Return the downstream tasks among some metrics, each with the name of its main figure: F1, else accuracy."""
    downstream = [m for m in metrics if m.startswith("downstream.")]
    found: dict[str, str] = {}
    for what in ("accuracy", "f1"):
        found |= {m.split(".")[1]: m for m in downstream if m.endswith(f".{what}")}
    return dict(sorted(found.items()))


def mean_of_tasks(curves: pl.DataFrame) -> pl.DataFrame:
    """Return step, value, tasks: the mean of all tasks' main figures, at the steps where the most were measured.

    Probes may have schedules of their own; a mean over other tasks at every step would go up and down by itself. A task
    without a single answer counts as 0 beside others that have some; where none has any, the mean is NaN.

    Args:
        curves: as `summary` returns them.
    """
    main = list(main_figures(curves["metric"].unique()).values())
    steps = curves.filter(pl.col("metric").is_in(main)).group_by("step")
    means = steps.agg(_mean(lost=True), pl.len().alias("tasks"))
    return means.filter(pl.col("tasks") == pl.col("tasks").max()).sort("step")


def chance_line(curves: pl.DataFrame, names: Iterable[str]) -> float | None:
    """Return what guessing gives on some tasks; None where that is not the same on all, or their answers are free.

    Args:
        curves: as `summary` returns them.
        names: of the tasks.
    """
    wanted = [f"downstream.{name}.chance" for name in names]
    found = curves.filter(pl.col("metric").is_in(wanted)).group_by("metric").agg(pl.col("value").first())["value"]
    same = len(found) == len(wanted) and found.round(6).n_unique() == 1
    return float(found[0]) if same and found[0] > 0 else None


def windowed(run: RunFrames, what: str, rng: np.random.Generator) -> pl.DataFrame:
    """Return a measurement made right after each edit over 5 and 50 edits, as the first paper draws it.

    Args:
        run: the run.
        what: such as "success"; gives `efficacy.success@now` and its like, and for "success" `score@now`.
        rng: draws the intervals' resamples.

    Returns:
        A frame of `SUMMARY_COLUMNS`; only windows of 50 have intervals.
    """
    found: dict[str, Array] = {}
    frames = []
    for kind in KINDS:
        metric = f"{kind}.{what}@now"
        series = per_edit(run, metric)
        if not len(series):
            continue
        found[kind] = series.values
        steps, fine = bucket(series.steps, series.values)
        ends = np.searchsorted(series.steps, steps, side="right")
        smooth = moving_average(series.values, ends)
        spans = [(max(0, end - WINDOW), end) for end in ends]
        bounds = np.array([mean_interval(_known(series.values[a:b]), rng, share=True) for a, b in spans])
        none = np.full_like(bounds, np.nan)
        last = np.append(0, ends[:-1])
        frames.append(_frame(metric, BUCKET, steps, fine, none, series.values, list(zip(last, ends, strict=True))))
        frames.append(_frame(metric, WINDOW, steps, smooth, bounds, series.values, spans))
    if what == "success" and len(found) == len(KINDS) and len(set(map(len, found.values()))) == 1:
        parts = np.stack(list(found.values()))
        means = np.stack([moving_average(part, ends) for part in parts])
        bounds = np.array([_score_interval(parts[:, a:b], rng) for a, b in spans])
        frames.append(_frame("score@now", WINDOW, steps, score(*means), bounds, parts.sum(0), spans))
    return pl.concat([pl.DataFrame(schema=SUMMARY_COLUMNS), *frames])


def _known(values: Array) -> Array:
    return values[~np.isnan(values)]


def _score_interval(parts: Array, rng: np.random.Generator, samples: int = 200) -> tuple[float, float]:
    """Bound the harmonic mean of three means of the same edits by resampling the edits."""
    parts = parts[:, ~np.isnan(parts).any(0)]
    if parts.shape[1] < 2:
        return np.nan, np.nan
    means = parts[:, rng.integers(0, parts.shape[1], (samples, parts.shape[1]))].mean(-1)
    low, high = np.quantile(score(*means), [0.025, 0.975])
    return float(low), float(high)


def _frame(
    metric: str,
    window: int,
    steps: Array,
    values: Array,
    bounds: Array,
    series: Array,
    spans: Sequence[tuple[int, int]],
) -> pl.DataFrame:
    """Lay out a windowed curve; `n` and `missing` count the edits of each window."""
    columns = {
        "step": steps.astype(np.int64),
        "metric": [metric] * len(steps),
        "window": [window] * len(steps),
        "value": values,
        "low": bounds[:, 0],
        "high": bounds[:, 1],
        "n": [int(b - a) for a, b in spans],
        "missing": [int(np.isnan(series[a:b]).sum()) for a, b in spans],
    }
    return pl.DataFrame(columns, schema=SUMMARY_COLUMNS)


def summary(run: RunFrames, seed: int = 0) -> pl.DataFrame:
    """Return every curve of a run in one frame: step, metric, window, value, low, high, n, missing.

    `window` is 1 for figures of one step, 5 and 50 for those right after an edit, averaged over so many edits. Rows
    that belong to an edit are averaged over its prompts first, so that `n` and the interval are over edits. Shares have
    Wilson's interval, means of other figures the bootstrap's; a single figure has none (NaN). `missing` counts the
    rows (in windows, the edits) without a value: answers that a model did not give, or gave as NaN; the mean is of the
    others, and NaN where there are none. Rows of single downstream items, of texts and of the lines of a perplexity are
    left out; items give the intervals of `downstream.<task>.accuracy` and `.f1`, lines those of `perplexity`.

    Args:
        run: the run.
        seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    keep = ~pl.col("metric").str.contains(r"^text@|\.(item|gold|given)$|^perplexity\.(nll|tokens)$")
    units = _units(run.rows().filter(keep)).group_by("step", "metric", maintain_order=True)
    grouped = units.agg(pl.col("value"), pl.col("missing").sum()).collect().sort("metric", "step")
    right = pl.col("value").filter(pl.col("value") == 1).len().alias("right")
    items = run.rows().filter(pl.col("metric").str.ends_with(".item")).group_by("step", "metric").agg(right, pl.len())
    counted = {(s, m.removesuffix(".item")): (r, n) for s, m, r, n in items.collect().iter_rows()}
    unanswered = {
        (step, metric.removesuffix(".unanswered")): values[0]
        for step, metric, values, _ in grouped.iter_rows()
        if metric.endswith(".unanswered")
    }
    lines, labelled, own = _perplexity_lines(run), labelled_items(run), run.own_metrics
    rows = []
    for step, metric, values, missing in grouped.iter_rows():
        array = np.array(values)
        known = _known(array)
        low, high = mean_interval(known, rng, share=is_share(metric, own)) if len(array) > 1 else (np.nan, np.nan)
        n = len(array)
        if metric.endswith(".accuracy") and (step, task := metric.removesuffix(".accuracy")) in counted:
            hits, n = counted[step, task]
            # Of items whose data hold no answer to compare with, none is in the accuracy.
            n = round(n * (1 - unanswered.get((step, task), 0.0)))
            low, high = wilson(hits, n)
        if metric.endswith(".f1") and (classes := labelled.get((step, metric.removesuffix(".f1")))):
            n = len(classes[0])
            low, high = f1_interval(classes, np.random.default_rng(seed)) if len(known) else (np.nan, np.nan)
        if metric.startswith("perplexity") and step in lines:
            nll, tokens = lines[step]
            n = len(nll)
            # Per word the same sum is divided by fewer units: a constant factor of the exponent.
            scale = _log(array[0]) * tokens.sum() / nll.sum() if metric.endswith(".word") else 1.0
            low, high = _perplexity_interval(nll * scale, tokens, rng)
        mean = float(known.mean()) if len(known) else np.nan
        rows.append((step, metric, 1, mean, low, high, n, missing))
    steps = pl.DataFrame(rows, schema=SUMMARY_COLUMNS, orient="row")
    lost = forgotten(run).select(SUMMARY_COLUMNS.names())
    return pl.concat([steps, *(windowed(run, what, rng) for what in SCORERS), lost])


def _log(value: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.log(value))


def _perplexity_lines(run: RunFrames) -> dict[int, tuple[Array, Array]]:
    """Return at each step every line's negative log-likelihood and number of tokens."""
    both = [run.metric(f"perplexity.{what}").select("step", "prompt_id", "value") for what in ("nll", "tokens")]
    joined = both[0].join(both[1], on=["step", "prompt_id"], suffix="_tokens", maintain_order="left")
    return {
        step: (part["value"].to_numpy(), part["value_tokens"].to_numpy())
        for (step,), part in joined.group_by("step", maintain_order=True)
    }


def _perplexity_interval(
    nll: Array, tokens: Array, rng: np.random.Generator, samples: int = 500
) -> tuple[float, float]:
    """Bound exp(Σ nll / Σ tokens) by resampling lines; neighboring windows of one text are taken as independent."""
    if len(nll) < 2 or not np.isfinite(nll).all():
        return np.nan, np.nan
    drawn = rng.integers(0, len(nll), (samples, len(nll)))
    with np.errstate(over="ignore"):
        low, high = np.exp(np.quantile(nll[drawn].sum(1) / tokens[drawn].sum(1), [0.025, 0.975]))
    return float(low), float(high)


def is_share(metric: str, own: Mapping[str, str] | None = None) -> bool:
    """Return whether a metric's values are successes, or shares of them: never told from the values.

    Args:
        metric: its name.
        own: what other packages' metrics are (`RunFrames.own_metrics`), which say so themselves.
    """
    if own and metric in own:
        return own[metric] == "share"
    name = metric.partition("@")[0]
    return name.rpartition(".")[2] in (*SCORERS, "contained", "kept", "known", "item")
