"""Every run in one row: what its method reaches, what it keeps, what it costs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.curves import curve, most_asked, per_edit, tasks
from errata.analysis.downstream import items_lost
from errata.analysis.frames import RunFrames
from errata.analysis.intervals import mean_interval
from errata.analysis.verdict import Verdict
from errata.report.latex import latex_table
from errata.report.words import DASH, bounded, measured, number, share, span

__all__ = ["MethodsTable", "methods_table"]


@dataclass(frozen=True)
class MethodsTable:
    """The table: a row a run, a column a figure, each with how it is written; NaN where it was not measured."""

    runs: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    texts: tuple[tuple[str, ...], ...]

    def as_json(self) -> dict[str, Any]:
        """Return {run: {column: figure}}, with null for what was not measured."""
        return {
            run: {c: v if math.isfinite(v) else None for c, v in zip(self.columns, row, strict=True)}
            for run, row in zip(self.runs, self.values, strict=True)
        }

    def markdown(self) -> str:
        """Return the table in Markdown."""
        head = ["run", *self.columns]
        rows = [[run, *row] for run, row in zip(self.runs, self.texts, strict=True)]
        return "".join("| " + " | ".join(line) + " |\n" for line in [head, ["---"] * len(head), *rows])

    def latex(self) -> str:
        """Return the table in LaTeX, for the booktabs package."""
        rows = [[run, *row] for run, row in zip(self.runs, self.texts, strict=True)]
        return latex_table(["run", *self.columns], rows)


def methods_table(runs: Sequence[tuple[str, RunFrames, Verdict]], seed: int = 0) -> MethodsTable:
    """Build the table.

    `efficacy`, `paraphrase`, `neighborhood`: success right after each edit, mean over the run. `recalled`: edits whose
    every token is the argmax at the run's end, of all that were made. `unrelated`: facts about other subjects exact at
    the end. `tasks`: the mean of the downstream tasks at the end, as a share of the unedited model's; its interval is
    that of the items' accuracy, asked before and after. `half-life`: further edits until half of the edits are
    forgotten. Where no true object is given, exact match stands for success. What probes of other packages measured has
    a column each. Every mean has its 95 % interval, and says how many answers are missing from it.

    Args:
        runs: label, run and verdict of each.
        seed: of the bootstraps.
    """
    columns: dict[str, Callable[[RunFrames, Verdict, np.random.Generator], tuple[float, str]]] = {
        "efficacy": lambda r, v, g: _now(r, ("efficacy.success@now", "efficacy.exact@now"), g),
        "paraphrase": lambda r, v, g: _now(r, ("paraphrase.success@now", "paraphrase.exact@now"), g),
        "neighborhood": lambda r, v, g: _now(
            r, ("neighborhood.success@now", "neighborhood.exact@now", "locality.exact@now"), g
        ),
        "recalled": lambda r, v, g: _at_end(r, "efficacy.exact@retest", g),
        "unrelated": lambda r, v, g: _at_end(r, "unrelated.exact", g),
        "tasks": lambda r, v, g: _tasks(r),
        "collapse": lambda r, v, g: _collapse(v),
        "half-life": lambda r, v, g: _half_life(v),
        "s/edit": lambda r, v, g: _seconds(r),
        "peak MB": lambda r, v, g: _plain(r.peak_memory / 1e6, 4),
    }
    own = {metric: kind for _, run, _ in runs for metric, kind in run.own_metrics.items()}
    columns |= {metric: partial(_own, metric, kind) for metric, kind in own.items()}
    cells = [
        [column(run, verdict, np.random.default_rng(seed)) for column in columns.values()] for _, run, verdict in runs
    ]
    return MethodsTable(
        tuple(label for label, _, _ in runs),
        tuple(columns),
        tuple(tuple(value for value, _ in row) for row in cells),
        tuple(tuple(text for _, text in row) for row in cells),
    )


def _plain(value: float, digits: int) -> tuple[float, str]:
    return (value, number(value, digits)) if math.isfinite(value) else (math.nan, DASH)


def _now(run: RunFrames, metrics: Sequence[str], rng: np.random.Generator) -> tuple[float, str]:
    """Say the mean of the first of these that most edits have; exact match where true objects are not given."""
    metric = most_asked(run, metrics)
    value, text = _mean(per_edit(run, metric).values, run.metric(metric), rng)
    return value, f"{text}, exact match" if metric != metrics[0] else text


def _own(metric: str, kind: str, run: RunFrames, _: Verdict, rng: np.random.Generator) -> tuple[float, str]:
    """Say what a probe of another package measured: over all edits right after them, else at the last step."""
    if metric not in run.own_metrics:
        return math.nan, DASH
    if metric.endswith("@now"):
        return _mean(per_edit(run, metric).values, run.metric(metric), rng, share=kind == "share")
    return _at_end(run, metric, rng, share=kind == "share")


def _at_end(run: RunFrames, metric: str, rng: np.random.Generator, *, share: bool = True) -> tuple[float, str]:
    frame = run.metric(metric)
    frame = frame.filter(pl.col("step") == pl.col("step").max())
    by_unit = pl.when(pl.col("edit_id") != "").then("edit_id").otherwise("prompt_id")
    known = pl.col("value").drop_nans()
    mean = pl.when(known.len() > 0).then(known.mean()).otherwise(math.nan).alias("value")
    return _mean(
        frame.group_by(by_unit.alias("unit"), maintain_order=True).agg(mean)["value"].to_numpy(),
        frame,
        rng,
        share=share,
    )


def _mean(
    values: NDArray[np.float64], rows: pl.DataFrame, rng: np.random.Generator, *, share: bool = True
) -> tuple[float, str]:
    """Say the mean of what has a value, with its interval and the rows that have none."""
    if not len(values):
        return math.nan, DASH
    known = values[~np.isnan(values)]
    value = float(known.mean()) if len(known) else math.nan
    say = bounded if share else measured
    return value, say(value, *mean_interval(known, rng, share=share), int(rows["value"].is_nan().sum()))


def _tasks(run: RunFrames) -> tuple[float, str]:
    kept = []
    for metric in tasks(run).values():
        values = curve(run, metric, lost=True).values
        if len(values) > 1 and values[0] > 0:
            kept.append(values[-1] / values[0])
    if not kept:
        return math.nan, DASH
    # A task without a single answer is lost; a model that answers none is dead.
    value, lost = math.nan if np.isnan(kept).all() else float(np.nan_to_num(kept).mean()), items_lost(run)
    if lost is None:
        return value, f"{share(value)}, {len(kept)} tasks"
    return value, f"{share(value)}, items {bounded(1 - lost.value, 1 - lost.high, 1 - lost.low, lost.missing)}"


def _collapse(verdict: Verdict) -> tuple[float, str]:
    if verdict.collapse is None:
        return math.nan, f"not by {verdict.edits:,}"
    return float(verdict.collapse.step), f"{verdict.collapse.step:,} ({span(*verdict.collapse.interval)})"


def _half_life(verdict: Verdict) -> tuple[float, str]:
    value, (low, high) = verdict.survival.half_life, verdict.survival.half_life_interval
    if not math.isfinite(value):
        return math.nan, f"over {verdict.edits:,}"
    return value, f"{number(value)} ({span(low, high) if math.isfinite(high) else f'{low:,.0f} or more'})"


def _seconds(run: RunFrames) -> tuple[float, str]:
    """Say the median seconds of an edit, and the range that half of them lie in."""
    # A batch's seconds stand in the entry of each of its edits.
    batches = run.journal.group_by("step", maintain_order=True).agg(pl.col("seconds").first() / pl.len())
    seconds = batches["seconds"].drop_nulls().to_numpy()
    if not len(seconds):
        return math.nan, DASH
    low, value, high = (float(q) for q in np.quantile(seconds, [0.25, 0.5, 0.75]))
    return value, f"{number(value, 2)} ({number(low, 2)}–{number(high, 2)})" if high > low else number(value, 2)
