"""The first paper's Table 3 for any runs: each cell a figure with its interval, and the paper's word for it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from errata.analysis.curves import most_asked, per_edit, tasks
from errata.analysis.downstream import items_lost
from errata.analysis.forgetting import forgotten
from errata.analysis.frames import RunFrames
from errata.analysis.intervals import mean_interval
from errata.analysis.verdict import Verdict
from errata.report.latex import latex_table
from errata.report.words import DASH, DEAD, bounded, share, span

__all__ = ["Cell", "Table3", "table3"]

# Where the words change. The paper gives words alone (2401.07453, table 3); the levels are read off its figures so
# that its own three methods get its own words.
ALWAYS = 0.995
"""Efficacy of 100 %, as printed without decimals."""
LOCALITY = ((0.4, "very low"), (0.55, "low"), (0.75, "high"))
"""Mean neighborhood success until the collapse; above the last, very high. FT-C has 0.30 to 0.35, ROME falls from 0.78
to 0.45, MEMIT from 0.85 to 0.50, later."""
LONG = 0.5
"""A duration is long from this share of the run's edits on: ROME breaks after 455 of 1,000 on average, MEMIT after
1,400 of 2,000."""
LOSS = 0.2
"""Relative loss of the downstream score until the collapse from which on it is high: FT-C and ROME lose half, MEMIT
less than a tenth."""
FORGETTING = ((0.25, "low"), (0.6, "high"))
"""Share of edits forgotten just before the collapse; above the last, very high. FT-C forgets 0.85 to 0.90."""


@dataclass(frozen=True)
class Cell:
    """A figure, its interval (NaN where there is none), how it is written, and the paper's word."""

    value: float
    low: float
    high: float
    text: str
    word: str


@dataclass(frozen=True)
class Table3:
    """The table: a row a property, a column a run."""

    runs: tuple[str, ...]
    rows: dict[str, tuple[Cell, ...]]

    def as_json(self) -> dict[str, Any]:
        """Return {row: {run: cell}}, with null for what is not finite."""

        def plain(cell: Cell) -> dict[str, Any]:
            fields = asdict(cell).items()
            return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields}

        return {row: dict(zip(self.runs, map(plain, cells), strict=True)) for row, cells in self.rows.items()}

    def markdown(self) -> str:
        """Return the table in Markdown."""
        head = ["", *(_markdown(r) for r in self.runs)]
        lines = [head, ["---", *["---"] * len(self.runs)]]
        lines += [[row, *(_markdown(_say(c)) for c in cells)] for row, cells in self.rows.items()]
        return "".join("| " + " | ".join(line) + " |\n" for line in lines)

    def latex(self) -> str:
        """Return the table in LaTeX, for the booktabs package."""
        return latex_table(["", *self.runs], [[row, *map(_say, cells)] for row, cells in self.rows.items()])


def table3(runs: Sequence[tuple[str, RunFrames, Verdict]], seed: int = 0) -> Table3:
    """Build the table.

    Args:
        runs: label, run and verdict of each.
        seed: of the bootstraps.
    """
    rows: dict[str, Callable[[RunFrames, Verdict, np.random.Generator], Cell]] = {
        "efficacy": _efficacy,
        "locality": _locality,
        "duration before collapse": _duration,
        "loss of downstream before collapse": _loss,
        "forgetting": _forgetting,
        "single disabling edit": _disabling,
    }
    made = {name: tuple(row(run, v, np.random.default_rng(seed)) for _, run, v in runs) for name, row in rows.items()}
    return Table3(tuple(label for label, _, _ in runs), made)


def _none() -> Cell:
    return Cell(math.nan, math.nan, math.nan, DASH, "not measured")


def _until(v: Verdict) -> float:
    """Return the first edit that no longer counts as before the collapse."""
    return v.collapse.interval[0] if v.collapse else math.inf


class _Mean(NamedTuple):
    """A mean of what has a value, its interval, and how many edits have none."""

    value: float
    low: float
    high: float
    missing: int = 0


def _mean(run: RunFrames, v: Verdict, metric: str, rng: np.random.Generator) -> _Mean | None:
    series = per_edit(run, metric)
    values = series.values[series.steps < _until(v)]
    known = values[~np.isnan(values)]
    if not len(series):
        return None
    # A mean of nothing is NaN: the model was dead from the first edit on.
    mean = float(known.mean()) if len(known) else math.nan
    missing = int(np.isnan(values if len(values) else series.values).sum())
    return _Mean(mean, *mean_interval(known, rng, share=True), missing)


def _efficacy(run: RunFrames, v: Verdict, rng: np.random.Generator) -> Cell:
    found, by = _first(run, v, ("efficacy.success@now", "efficacy.exact@now"), rng)
    if found is None:
        return _none()
    full = "100 %" if found.value >= ALWAYS else "<100 %"
    return _cell(found, full + by + (" until collapse" if v.collapse else ""))


def _locality(run: RunFrames, v: Verdict, rng: np.random.Generator) -> Cell:
    found, by = _first(run, v, ("neighborhood.success@now", "neighborhood.exact@now", "locality.exact@now"), rng)
    return _none() if found is None else _cell(found, _word(found.value, LOCALITY, "very high") + by)


def _first(run: RunFrames, v: Verdict, metrics: Sequence[str], rng: np.random.Generator) -> tuple[_Mean | None, str]:
    """Return the mean of the first of these that most edits have, and by what it is where that is not success."""
    metric = most_asked(run, metrics)
    return _mean(run, v, metric, rng), ", exact match" if ".exact@" in metric else ""


def _duration(run: RunFrames, v: Verdict, rng: np.random.Generator) -> Cell:
    if v.collapse is None:
        return Cell(math.nan, v.edits, math.inf, f"more than {v.edits:,}", "not observed")
    low, high = v.collapse.interval
    word = "long" if v.collapse.step >= LONG * v.edits else "short"
    return Cell(v.collapse.step, low, high, f"{v.collapse.step:,} ({span(low, high)})", word)


def _loss(run: RunFrames, v: Verdict, rng: np.random.Generator) -> Cell:
    """Compare the tasks just before the collapse with the unedited model: the same items, answered twice.

    The figure is the relative loss of the items' accuracy. A run without rows of single items has the mean relative
    loss of the tasks' main figures instead, without an interval: tasks are too few to resample.
    """
    lost = items_lost(run, _until(v))
    if lost is not None:
        word = "high" if lost.value >= LOSS else "low"
        return Cell(lost.value, lost.low, lost.high, bounded(lost.value, lost.low, lost.high, lost.missing), word)
    losses = []
    for metric in tasks(run).values():
        frame = (
            run.metric(metric)
            .group_by("step", maintain_order=True)
            .agg(pl.col("value").mean())
            .filter(pl.col("step") < _until(v))
        )
        # The unedited model alone has lost nothing yet, which is no measurement.
        if len(frame) and frame["step"][-1] > 0 and frame["value"][0] > 0:
            losses.append(1 - frame["value"][-1] / frame["value"][0])
    if not losses:
        return _none()
    value = float(np.nan_to_num(np.array(losses), nan=1.0).mean())
    text = f"{share(value)}, {len(losses)} tasks"
    return Cell(value, math.nan, math.nan, text, "high" if value >= LOSS else "low")


def _forgetting(run: RunFrames, v: Verdict, rng: np.random.Generator) -> Cell:
    keep = (pl.col("metric") == "forgotten.current") & (pl.col("step") < _until(v))
    frame = forgotten(run).filter(keep)
    if not len(frame):
        return _none()
    found = _Mean(*frame.select("value", "low", "high", "missing").row(-1))
    return _cell(found, _word(found.value, FORGETTING, "very high"))


def _disabling(run: RunFrames, v: Verdict, rng: np.random.Generator) -> Cell:
    edits = [s.edit for s in v.disabling]
    if v.collapse and v.collapse.cause and v.collapse.cause.edit not in edits:
        edits.insert(0, v.collapse.cause.edit)
    first = f"edit {edits[0]:,}" + (f" and {len(edits) - 1} more" if len(edits) > 1 else "") if edits else "none"
    return Cell(float(len(edits)), math.nan, math.nan, first, "yes" if edits else "no")


def _cell(found: _Mean, word: str) -> Cell:
    return Cell(found.value, found.low, found.high, bounded(*found), word if math.isfinite(found.value) else DEAD)


def _word(value: float, levels: Sequence[tuple[float, str]], above: str) -> str:
    return next((word for level, word in levels if value < level), above)


def _say(cell: Cell) -> str:
    return f"{cell.word}: {cell.text}" if cell.text != DASH else DASH


def _markdown(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
