"""Lay several runs over one another: one page, and the first paper's Table 3."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import polars as pl

from errata.analysis.curves import chance_line, tasks
from errata.analysis.differences import differences, grouped
from errata.analysis.seeds import figures_over_runs
from errata.files import write_aside
from errata.report.charts import marks_of
from errata.report.comparisons import Grid, differences_table, runs_table, survival_table
from errata.report.extras import altair
from errata.report.figures import COLUMNS, Figure, Line, pick, survival_figure
from errata.report.methods_table import MethodsTable, methods_table
from errata.report.page import Judged, render, specs
from errata.report.table3 import Table3, table3
from errata.report.theme import SERIES

__all__ = ["Tables", "compare", "comparison", "labels", "overview"]

FIGURES = (
    (
        "efficacy.success@now",
        "New edits",
        "Efficacy right after each edit; mean of up to 50, 95 % interval.",
        50,
    ),
    ("paraphrase.success@now", "New edits in other words", "Paraphrases right after each edit; mean of up to 50.", 50),
    ("neighborhood.success@now", "Neighbors of new edits", "Neighborhood right after each edit; mean of up to 50.", 50),
    ("forgotten.current", "Earlier edits forgotten", "Of the edits exact when made, how many are not now.", 1),
    ("unrelated.exact", "Unrelated facts", "Facts about subjects never edited, exact.", 1),
)

DIFFERENCES = (
    "Each run against the first: shares in points of a hundred, numbers as they are; the same edits right after they "
    "were made, the same facts and items at the last step that both measured. Not corrected for the number of "
    "comparisons."
)
RUNS = (
    "Runs of one method that differ in their seeds, samples or sets of edits alone: the mean of their means, bounded "
    "over runs and over what was measured in each; at the last step that all of them measured."
)
SURVIVAL = (
    "Further edits until half of the edits that were exact when made are not (Kaplan and Meier), and the log-rank test "
    "against the first run."
)


@dataclass(frozen=True)
class Tables:
    """The first paper's Table 3, a row a run, means over several runs, paired differences, and how long edits live."""

    table3: Table3
    methods: MethodsTable
    runs: Grid
    differences: Grid
    survival: Grid


def compare(paths: Sequence[Path], out: Path, seed: int = 0) -> tuple[Path, Tables, list[Judged]]:
    """Write the comparison of several runs.

    Args:
        paths: the run directories.
        out: the page.
        seed: of the bootstraps.

    Returns:
        The page, the tables, and the runs with their verdicts.

    Where there are more runs than colours to tell them apart, the page has their verdicts and tables, and no charts.
    """
    altair()  # asked for before any work is done
    runs = [Judged.of(path, seed) for path in paths]
    names = labels(runs)
    judged = [(name, r.run, r.verdict) for name, r in zip(names, runs, strict=True)]
    groups = grouped([(name, run) for name, run, _ in judged])
    tables = Tables(
        table3(judged, seed),
        methods_table(judged, seed),
        runs_table(figures_over_runs(groups, seed)),
        differences_table(differences(groups, seed)),
        survival_table(groups),
    )
    drawn = comparison(runs, names)
    edits = max(r.verdict.edits for r in runs)
    marks = [marks_of(r.verdict, color, gradual=False) for r, color in zip(runs, SERIES, strict=False)]
    top = overview(runs, names)
    page = render(
        "compare.html.j2",
        runs=[(name, color, r.run, r.verdict) for name, color, r in zip(names, cycle(SERIES), runs, strict=False)],
        table=tables.table3,
        methods=tables.methods,
        grids=(
            ("Over several runs", RUNS, tables.runs),
            ("Differences on the same edits", DIFFERENCES, tables.differences),
            ("How long edits live", SURVIVAL, tables.survival),
        ),
        overview=top,
        figures=drawn,
        specs=specs(top, drawn, marks, edits) if drawn else {},
    )
    write_aside(out, page.encode())
    return out, tables, runs


def labels(runs: Sequence[Judged]) -> list[str]:
    """Return a short name of each run: its method where that tells them apart, else its own, else its directory."""
    for choice in ([r.run.method for r in runs], [r.run.name for r in runs], [r.run.path.name for r in runs]):
        if max(Counter(choice).values()) == 1:
            return choice
    return [str(r.run.path) for r in runs]


def comparison(runs: Sequence[Judged], names: Sequence[str]) -> list[Figure]:
    """Return the charts that lay runs over one another.

    Args:
        runs: the runs.
        names: their labels.

    Returns:
        Nothing where there are more runs than colours to tell them apart.
    """
    if len(runs) > len(SERIES):
        return []
    lines = tuple(Line(name, color) for name, color in zip(names, SERIES, strict=False))
    made = []
    for metric, title, note, window in FIGURES:
        chance = 0.5 if ".success@" in metric else None
        made.append(_figure(metric, title, note, runs, names, lines, window, chance))
    made = [figure if len(figure.frame) else _exact(figure, runs, names) for figure in made]
    measured = {name: metric for r in runs for name, metric in tasks(r.run).items()}
    for task, metric in sorted(measured.items()):
        note = f"Downstream task, {'weighted F1' if metric.endswith('.f1') else 'accuracy'}."
        chance = next((c for r in runs if (c := chance_line(r.curves, [task])) is not None), None)
        made.append(_figure(metric, task.capitalize(), note, runs, names, lines, 1, chance))
    note = "‖W−W₀‖ / ‖W₀‖, mean over the edited modules, log scale."
    made.append(_figure("drift.relative", "Drift of the weights", note, runs, names, lines, 1, None, log=True))
    note = "On held-out text, log scale."
    made.append(_figure("perplexity", "Perplexity", note, runs, names, lines, 1, None, log=True))
    own = {metric: kind for r in runs for metric, kind in r.run.own_metrics.items()}
    for metric, kind in own.items():
        figure = _figure(metric, metric, "Of a probe of another package.", runs, names, lines, 1, None)
        made.append(figure if kind == "share" else replace(figure, scale="plain"))
    made.append(survival_figure([(n, r.verdict) for n, r in zip(names, runs, strict=True)], SERIES))
    return [f for f in made if len(f.frame)]


def _exact(figure: Figure, runs: Sequence[Judged], names: Sequence[str]) -> Figure:
    """Return the chart by exact match, where no true object is known and success is not defined."""
    metric = figure.name.replace("-success-", ".exact@")
    note = f"{figure.note} By exact match: no true object is given."
    return _figure(metric, figure.title, note, runs, names, figure.lines, 50, None)


def _figure(
    metric: str,
    title: str,
    note: str,
    runs: Sequence[Judged],
    names: Sequence[str],
    lines: tuple[Line, ...],
    window: int,
    chance: float | None,
    *,
    log: bool = False,
) -> Figure:
    frames = [pick(r.curves, metric, name, window) for r, name in zip(runs, names, strict=True)]
    frame = pl.concat(frames).filter((pl.col("value") != 0) | pl.lit(not log))
    slug = metric.replace(".", "-").replace("@", "-")
    return Figure(slug, title, note, lines, frame, "log" if log else "share", chance, half=True)


def overview(runs: Sequence[Judged], names: Sequence[str]) -> Figure:
    """Return the strip: what each run keeps of unrelated facts, or of its edits where those were not asked."""
    lines = tuple(Line(name, color) for name, color in zip(names, SERIES, strict=False))
    for metric, window in (("unrelated.exact", 1), ("efficacy.success@now", 50), ("efficacy.exact@now", 50)):
        frames = [pick(r.curves, metric, name, window) for r, name in zip(runs, names, strict=True)]
        if any(map(len, frames)):
            break
    return Figure("overview", "Overview", "", lines, pl.concat(frames).select(COLUMNS))
