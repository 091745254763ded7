"""What each chart of a run shows: its data, its lines and its words; how it is drawn is another matter."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from errata.analysis.curves import SUMMARY_COLUMNS, chance_line, mean_of_tasks, tasks
from errata.analysis.frames import RunFrames
from errata.analysis.verdict import Verdict
from errata.report.theme import SERIES

__all__ = ["COLUMNS", "Figure", "Line", "figures", "overview", "pick", "survival_figure"]

COLUMNS = ("step", "series", "window", "value", "low", "high")

Scale = Literal["share", "log", "plain"]


@dataclass(frozen=True)
class Line:
    """A line of a chart: its label and colour, and whether it is thin and dotted."""

    label: str
    color: str
    dotted: bool = False


@dataclass(frozen=True)
class Figure:
    """A chart, undrawn.

    Args:
        name: of its files and its element.
        title: what it shows.
        note: a sentence for the reader.
        lines: its lines in the order of the legend.
        frame: step, series (a line's label), window, value, low, high.
        scale: "share" (0 to 1), "log" or "plain".
        chance: the level of a model that guesses; None when there is none.
        x: the horizontal axis's title; charts over "edits made" share it.
        half: whether two of them stand side by side.
        stepped: whether the line keeps its level until the next point.
    """

    name: str
    title: str
    note: str
    lines: tuple[Line, ...]
    frame: pl.DataFrame
    scale: Scale = "share"
    chance: float | None = None
    x: str = "edits made"
    half: bool = False
    stepped: bool = False


def pick(frame: pl.DataFrame, metric: str, label: str, window: int | None = None) -> pl.DataFrame:
    """Return one metric's curve under a label."""
    keep = pl.col("metric") == metric
    keep = keep & (pl.col("window") == window) if window else keep
    return frame.filter(keep).with_columns(pl.lit(label).alias("series")).select(COLUMNS)


def figures(run: RunFrames, curves: pl.DataFrame, verdict: Verdict) -> list[Figure]:
    """Return the charts of a run that it has data for, in the order of the page.

    Args:
        run: the run.
        curves: its summary.
        verdict: its verdict.
    """
    made = [
        _proficiency(curves),
        _forgetting(curves),
        _downstream(curves, tasks(run)),
        *_drift(run),
        *_language(curves),
        survival_figure([(run.method, verdict)], SERIES[:1]),
        *_own(curves, run.own_metrics),
    ]
    return [f for f in made if len(f.frame)]


def overview(curves: pl.DataFrame) -> Figure:
    """Return the strip on which a range of edits is chosen: what is kept of edits, knowledge and tasks."""
    kept = pick(curves, "forgotten.current", "earlier edits recalled").with_columns(value=1 - pl.col("value"))
    mean = (
        mean_of_tasks(curves)
        .with_columns(
            series=pl.lit("downstream, mean"), window=pl.lit(1, pl.Int64), low=float("nan"), high=float("nan")
        )
        .select(COLUMNS)
    )
    parts = [kept, pick(curves, "unrelated.exact", "unrelated facts"), mean]
    if not any(map(len, parts)):
        parts = [pick(curves, "efficacy.success@now", "efficacy", 50)]
    if not any(map(len, parts)):
        parts = [pick(curves, "efficacy.exact@now", "efficacy", 50)]
    frame = pl.concat(parts)
    labels = frame["series"].unique(maintain_order=True).to_list()
    colors = {"earlier edits recalled": SERIES[3], "unrelated facts": SERIES[6], "downstream, mean": SERIES[0]}
    lines = tuple(Line(x, colors.get(x, SERIES[0])) for x in labels)
    return Figure("overview", "Overview", "", lines, frame)


def _proficiency(curves: pl.DataFrame) -> Figure:
    kinds = ("efficacy", "paraphrase", "neighborhood")
    present = set(curves["metric"])
    lines, frames = [], []
    for kind, color in zip(kinds, SERIES, strict=False):
        # Where no true object is given, there is exact match alone.
        metric = next((m for m in (f"{kind}.success@now", f"{kind}.exact@now") if m in present), None)
        if metric is not None:
            lines.append(Line(kind, color))
            frames += [pick(curves, metric, kind, 50), pick(curves, metric, kind, 5)]
    if "score@now" in present:
        lines.append(Line("score", SERIES[6], dotted=False))
        frames.append(pick(curves, "score@now", "score", 50))
    return Figure(
        "proficiency",
        "Do new edits take?",
        "Right after each edit: the new object more probable than the true one on the edit's prompt (efficacy) and in "
        "other words (paraphrase), the true one still so for neighbors (neighborhood); score is their harmonic mean. "
        "Without a true object: the new one said exactly. "
        "Solid: mean of up to 50 edits with its 95 % interval. Dotted: of 5. At 50 % a model is guessing.",
        tuple(lines),
        _join(frames),
        chance=0.5,
    )


def _forgetting(curves: pl.DataFrame) -> Figure:
    return Figure(
        "forgetting",
        "Are earlier edits forgotten?",
        "Of the edits that were exact when made, how many are not now (current), and how many were not at this re-test "
        "or any before (absorbing, as the first paper counts).",
        (Line("current", SERIES[3]), Line("absorbing", SERIES[1])),
        _join([pick(curves, f"forgotten.{kind}", kind) for kind in ("current", "absorbing")]),
    )


def _downstream(curves: pl.DataFrame, names: Mapping[str, str]) -> Figure:
    wanted = [(metric, name, color) for (name, metric), color in zip(names.items(), _colors(), strict=False)]
    wanted += [("unrelated.exact", "unrelated facts", SERIES[6]), ("same_subject.exact", "same subject", SERIES[5])]
    present = set(curves["metric"])
    chosen = [w for w in wanted if w[0] in present]
    return Figure(
        "downstream",
        "What else does the model lose?",
        "Downstream tasks (weighted F1, or accuracy), facts about subjects never edited, and other facts of the edited "
        "subjects (exact). Where guessing gives the same on all tasks, a line says how much.",
        tuple(Line(label, color, dotted=metric == "same_subject.exact") for metric, label, color in chosen),
        _join([pick(curves, metric, label) for metric, label, _ in chosen]),
        chance=chance_line(curves, names),
    )


def _drift(run: RunFrames) -> Iterator[Figure]:
    words: dict[str, tuple[str, str, Scale]] = {
        "drift.relative": ("How far did the weights move?", "‖W−W₀‖ / ‖W₀‖, Frobenius norm, log scale.", "log"),
        "drift.mean_abs": (
            "The same, per parameter",
            "‖W−W₀‖ / number of parameters, as the first paper plots it.",
            "log",
        ),
        "drift.growth": ("Do the weights grow?", "‖W‖ / ‖W₀‖.", "plain"),
        "drift.dominant": (
            "Where do the changes point?",
            "Share of ‖W−W₀‖² that touches the dominant singular directions of W₀.",
            "share",
        ),
        "drift.preservation": (
            "How much of other texts' outputs is disturbed?",
            "‖(W−W₀)k‖² / ‖W₀k‖², mean over keys of held-out text, log scale.",
            "log",
        ),
    }
    for metric, (title, note, scale) in words.items():
        frame = run.metric(metric).filter((pl.col("step") > 0) & (pl.col("value") != 0))
        modules = frame["prompt_id"].unique(maintain_order=True).to_list()
        wide = len(modules) > len(SERIES)
        frame = frame.with_columns(pl.lit("mean of modules").alias("prompt_id")) if wide else frame
        frame = (
            frame.group_by("step", "prompt_id", maintain_order=True)
            .agg(pl.col("value").mean())
            .select(pl.col("step").cast(pl.Int64), series="prompt_id", window=pl.lit(1, pl.Int64), value="value")
            .with_columns(low=pl.lit(float("nan")), high=pl.lit(float("nan")))
        )
        labels = ["mean of modules"] if wide else modules
        lines = tuple(Line(m, c) for m, c in zip(labels, SERIES, strict=False))
        yield Figure(metric.replace(".", "-"), title, note, lines, frame, scale=scale, half=True)


def _language(curves: pl.DataFrame) -> Iterator[Figure]:
    line = (Line("perplexity", SERIES[0]),)
    note = "On held-out text, log scale."
    yield Figure(
        "perplexity",
        "Is it still a language model?",
        note,
        line,
        pick(curves, "perplexity", "perplexity"),
        "log",
        half=True,
    )
    note = "Entropy of generated words; below about 60 % a model repeats itself."
    line = (Line("entropy", SERIES[2]),)
    yield Figure("entropy", "Does it still vary its words?", note, line, pick(curves, "entropy", "entropy"), half=True)


def _own(curves: pl.DataFrame, metrics: Mapping[str, str]) -> Iterator[Figure]:
    """Yield a chart for every metric that a probe of another package measured."""
    for (metric, kind), color in zip(metrics.items(), _colors(), strict=False):
        slug = metric.replace(".", "-").replace("@", "-")
        note = f"Measured by a probe of another package, as a {kind}."
        scale: Scale = "share" if kind == "share" else "plain"
        yield Figure(slug, metric, note, (Line(metric, color),), pick(curves, metric, metric), scale, half=True)


def survival_figure(verdicts: Sequence[tuple[str, Verdict]], colors: Sequence[str]) -> Figure:
    """Return the survival curves of one or several runs."""
    frames = [
        v.survival.curve.select(pl.col("after").cast(pl.Int64).alias("step"), value="alive", low="low", high="high")
        .with_columns(pl.lit(label).alias("series"), pl.lit(1, pl.Int64).alias("window"))
        .select(COLUMNS)
        for label, v in verdicts
    ]
    return Figure(
        "survival",
        "How long does an edit live?",
        "Share of edits still exact after so many further edits (Kaplan and Meier, with 95 % interval).",
        tuple(Line(label, color) for (label, _), color in zip(verdicts, colors, strict=False)),
        _join(frames),
        x="further edits",
        stepped=True,
    )


def _colors() -> Iterator[str]:
    """Yield colours without end; the last two of the palette are kept for knowledge."""
    while True:
        yield from SERIES[:5]


def _join(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    empty = pl.DataFrame(schema={"series": pl.String, **SUMMARY_COLUMNS}).select(COLUMNS)
    return pl.concat([empty, *frames])
