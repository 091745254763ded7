"""Two tables of a comparison: paired differences between methods, and how long their edits live."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from errata.analysis.differences import Difference, Group
from errata.analysis.seeds import OverRuns
from errata.analysis.survival import lifetimes, logrank, survival
from errata.report.latex import latex_table
from errata.report.words import DASH, bounded, measured, number, share, span

__all__ = ["Grid", "differences_table", "runs_table", "survival_table"]


@dataclass(frozen=True)
class Grid:
    """A table for reading, and the figures in it.

    Args:
        columns: the heads.
        rows: the texts.
        records: the figures of each row; NaN where there is none.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    records: tuple[dict[str, Any], ...]

    def as_json(self) -> list[dict[str, Any]]:
        """Return the figures, with null for what is not finite."""
        return [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
            for record in self.records
        ]

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        return "".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in lines)

    def latex(self) -> str:
        """Return the table in LaTeX, for the booktabs package."""
        return latex_table(self.columns, self.rows)


def differences_table(found: Sequence[Difference]) -> Grid:
    """Lay out differences, with the interval, McNemar's p, and what they are over.

    Shares differ in points of a hundred, other figures as they are.

    Args:
        found: from `errata.analysis.differences.differences`.
    """
    columns = ("metric", "of", "against", "difference", "95 % interval", "p (McNemar)", "over")
    rows = tuple(
        (
            d.metric,
            d.first,
            d.second,
            _change(d, d.value),
            f"{_change(d, d.low)} to {_change(d, d.high)}" if math.isfinite(d.low) else DASH,
            _p(d.p),
            _over(d),
        )
        for d in found
    )
    return Grid(columns, rows, tuple(asdict(d) for d in found))


def runs_table(found: Sequence[OverRuns]) -> Grid:
    """Lay out figures over runs: the mean with its interval, the runs' range, and what they are over.

    Args:
        found: from `errata.analysis.seeds.figures_over_runs`.
    """
    columns = ("metric", "of", "mean over runs", "least to most", "over")
    rows = tuple(
        (
            f.metric,
            f.group,
            (bounded if f.share else measured)(f.value, f.low, f.high, f.missing),
            f"{_plain(f, f.least)} to {_plain(f, f.most)}" if f.runs else DASH,
            f"{f.runs} runs, {f.n:,} {'edits' if '@' in f.metric else 'items'}",
        )
        for f in found
    )
    return Grid(columns, rows, tuple(asdict(f) for f in found))


def _plain(f: OverRuns, value: float) -> str:
    return share(value) if f.share else number(value)


def survival_table(groups: Sequence[Group]) -> Grid:
    """Lay out how long edits live, and whether each group's curve differs from the first one's (log-rank).

    Edits of several runs are pooled; the test takes them as independent.

    Args:
        groups: the runs, those that differ in seeds alone together.
    """
    times = [pl.concat([lifetimes(run) for run in group.runs]) for group in groups]
    columns = ("run", "edits followed", "forgotten", "half-life", "95 % interval", "log-rank p")
    rows, records = [], []
    for i, (group, lived) in enumerate(zip(groups, times, strict=True)):
        s = survival(lived)
        p = logrank(times[0], lived) if i else math.nan
        low, high = s.half_life_interval
        bounds = span(low, high) if math.isfinite(high) else f"at least {low:,.0f}" if math.isfinite(low) else DASH
        half = number(s.half_life) if math.isfinite(s.half_life) else "more than half outlived the run" if s.n else DASH
        rows.append((group.label, f"{s.n:,}", f"{s.events:,}", half, bounds if s.n else DASH, _p(p) if i else DASH))
        records.append(
            {
                "run": group.label,
                "n": s.n,
                "events": s.events,
                "half_life": s.half_life,
                "low": low,
                "high": high,
                "p": p,
                "against": groups[0].label if i else "",
            }
        )
    return Grid(columns, tuple(rows), tuple(records))


def _change(d: Difference, value: float) -> str:
    """Say a difference of shares in points of a hundred, of other figures as it is."""
    return _points(value) if d.share else f"{value:+.3g}" if math.isfinite(value) else DASH


def _points(value: float) -> str:
    return f"{value * 100:+.1f}" if math.isfinite(value) else DASH


def _p(value: float) -> str:
    if not math.isfinite(value):
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _over(d: Difference) -> str:
    unit = "edits" if "@" in d.metric else "items"
    several = f" of {d.pairs} pairs of runs" if d.pairs > 1 else ""
    return f"{d.n:,} {unit}{several}" + (f", {d.missing:,} missing" if d.missing else "")
