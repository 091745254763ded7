"""Draw figures with Vega-Lite, through altair."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from errata.analysis.verdict import Verdict
from errata.report.extras import altair
from errata.report.figures import Figure
from errata.report.theme import config
from errata.report.words import DASH, number, share

__all__ = ["CROSS", "Mark", "Pen", "chart", "marks_of", "strip"]

HEIGHT = 230
STRIP = 58
AXIS = 40
CROSS = "M-.5,-.5L.5,.5M.5,-.5L-.5,.5"
POINTS = 1000
"""Steps drawn at most: more than a screen has pixels for would only make the page heavy."""


@dataclass(frozen=True)
class Mark:
    """What is marked on the step axis: a collapse with its interval, a gradual phase before it, disabling edits."""

    color: str
    collapse: int | None = None
    interval: tuple[int, int] | None = None
    gradual: tuple[int, int] | None = None
    disabling: tuple[int, ...] = ()


def marks_of(verdict: Verdict, color: str = "var(--red)", *, gradual: bool = True) -> Mark:
    """Return the marks of a run."""
    c = verdict.collapse
    phase = None
    if gradual and verdict.gradual_start is not None:
        phase = (verdict.gradual_start, c.step if c else verdict.edits)
    disabling = tuple(s.edit for s in verdict.disabling)
    return Mark(color, c.step if c else None, c.interval if c else None, phase, disabling)


class Pen:
    """Make layers whose data stand beside the specification: altair would check every number of it, slowly."""

    def __init__(self) -> None:
        self.alt = altair()
        self.data: dict[str, list[dict[str, Any]]] = {}

    def chart(self, records: list[dict[str, Any]]) -> Any:
        """Return a layer over records."""
        name = f"d{len(self.data)}"
        self.data[name] = records
        return self.alt.Chart(self.alt.NamedData(name=name))

    def spec(self, layers: Sequence[Any], **properties: Any) -> dict[str, Any]:
        """Return the layers as a specification in the house style, without the address of its schema."""
        size = self.alt.AutoSizeParams(type="fit-x", contains="padding")
        made: dict[str, Any] = self.alt.layer(*layers).properties(autosize=size, **properties).to_dict()
        del made["$schema"]
        return {**made, "config": config(), "datasets": self.data}


def chart(figure: Figure, marks: Sequence[Mark], edits: int, *, alone: bool = False) -> dict[str, Any]:
    """Return a figure as a Vega-Lite specification.

    The horizontal axis of figures over edits is bound to the parameters `first` and `last`, which the page sets from
    the overview's brush.

    Args:
        figure: what to show.
        marks: what to mark on the step axis.
        edits: how far that axis goes.
        alone: whether the chart stands alone, with a fixed width and its own legend, as an exported picture does.
    """
    pen = Pen()
    alt = pen.alt
    figure = _thinned(figure)
    shared = figure.x == "edits made"
    bound = alt.Scale(domainMin=alt.ExprRef("first"), domainMax=alt.ExprRef("last"), nice=False, zero=False)
    own = alt.Scale(nice=False, zero=True)
    x = alt.X("step:Q", scale=bound if shared else own, title=figure.x, axis=_steps(alt))
    layers = [*(_marks(pen, marks, x) if shared else ()), *_lines(pen, figure, x, alone), *_hover(pen, figure, x)]
    spec = pen.spec(layers, width=760 if alone else "container", height=HEIGHT)
    if shared:
        spec["params"] = [{"name": "first", "value": 0}, {"name": "last", "value": edits}, *spec["params"]]
    if alone:
        spec["title"] = {"text": figure.title, "anchor": "start", "color": "var(--ink)", "fontSize": 14, "offset": 8}
    return spec


def strip(figure: Figure, marks: Sequence[Mark], edits: int) -> dict[str, Any]:
    """Return the overview strip, with the brush."""
    pen = Pen()
    alt = pen.alt
    x = alt.X("step:Q", scale=alt.Scale(domain=[0, edits], nice=False), title=None, axis=_steps(alt))
    # The axis is there, unseen, to keep the strip in line with the charts below.
    axis = alt.Axis(labels=False, grid=False, minExtent=AXIS, maxExtent=AXIS, title=None)
    y = alt.Y("value:Q", scale=alt.Scale(domain=[0, 1]), axis=axis)
    brush = alt.selection_interval(
        name="brush", encodings=["x"], mark=alt.BrushConfig(fill="var(--ink)", fillOpacity=0.09, stroke="var(--quiet)")
    )
    colors = alt.Color("series:N", scale=_palette(alt, figure), legend=None)
    lines = (
        pen.chart(_records(figure.frame))
        .mark_line(strokeWidth=1.5, clip=True)
        .encode(x=x, y=y, color=colors)
        .add_params(brush)
    )
    layers = [*_marks(pen, marks, x), lines, *_disabling(pen, marks, x)]
    return pen.spec(layers, width="container", height=STRIP)


def _steps(alt: Any) -> Any:
    return alt.Axis(grid=False, tickCount=6, format="d")


def _thinned(figure: Figure) -> Figure:
    """Return the figure with at most `POINTS` steps, evenly chosen; the files of its data keep them all."""
    steps = figure.frame["step"].unique().sort()
    if len(steps) <= POINTS:
        return figure
    kept = steps.gather_every(-(-len(steps) // POINTS)).append(steps.tail(1))
    return replace(figure, frame=figure.frame.filter(pl.col("step").is_in(kept.implode())))


def _lines(pen: Pen, figure: Figure, x: Any, alone: bool) -> list[Any]:
    """Return the chance line, the intervals and the lines; null values leave gaps."""
    alt = pen.alt
    scales: Mapping[str, Any] = {
        "share": alt.Scale(domain=[0, 1]),
        "log": alt.Scale(type="log", nice=False, padding=8),
        "plain": alt.Scale(zero=False, padding=8),
    }
    ticks = _decades(figure.frame) if figure.scale == "log" else None
    form = ".0%" if figure.scale == "share" else ".0e" if ticks and max(ticks) < 1e-3 else "~g"
    axis = alt.Axis(
        format=form, tickCount=5, minExtent=AXIS, maxExtent=AXIS, title=None, **({"values": ticks} if ticks else {})
    )
    y = alt.Y("value:Q", scale=scales[figure.scale], axis=axis)
    legend = alt.Legend() if alone and len(figure.lines) > 1 else None
    color = alt.Color("series:N", scale=_palette(alt, figure), legend=legend, sort=None)
    dash = alt.StrokeDash("series:N", scale=_dashes(alt, figure), legend=None)
    fine = figure.frame["window"].n_unique() > 1
    solid = figure.frame.filter(pl.col("window") != 5) if fine else figure.frame
    layers = []
    if figure.chance is not None:
        rule = pen.chart([{"y": figure.chance}]).mark_rule(strokeDash=[2, 3], color="var(--quiet)")
        layers.append(rule.encode(y="y:Q"))
        word = rule.mark_text(text="chance", align="right", dx=-2, dy=-6, fontSize=10.5, color="var(--quiet)")
        layers.append(word.encode(y="y:Q", x=alt.value("width")))
    bounded = solid.filter(pl.col("low").is_finite() & pl.col("high").is_finite())
    if len(bounded):
        shape = "step-after" if figure.stepped else "linear"
        area = pen.chart(_records(bounded)).mark_area(opacity=0.13, clip=True, interpolate=shape)
        layers.append(area.encode(x=x, y=alt.Y("low:Q", title=None), y2="high:Q", color=color))
    if fine:
        points = _records(figure.frame.filter(pl.col("window") == 5))
        dotted = pen.chart(points).mark_line(strokeWidth=1.2, strokeDash=[1, 3], opacity=0.75, clip=True)
        layers.append(dotted.encode(x=x, y=y, color=color))
    shape = "step-after" if figure.stepped else "linear"
    few = solid["step"].n_unique() <= 60 and figure.name not in ("proficiency", "survival")
    point = {"size": 18, "filled": True} if few else False
    line = pen.chart(_records(solid)).mark_line(clip=True, interpolate=shape, point=point)
    layers.append(line.encode(x=x, y=y, color=color, strokeDash=dash))
    ends = _deaths(solid)
    if ends:
        cross = {"shape": CROSS, "size": 45, "strokeWidth": 2, "filled": False, "opacity": 1, "clip": True}
        layers.append(pen.chart(ends).mark_point(**cross).encode(x=x, y=y, color=color))
        highest = {end["step"]: end for end in sorted(ends, key=lambda end: end["value"])}
        word = {"text": "dead", "dx": 8, "align": "left", "fontSize": 10.5, "color": "var(--quiet)", "clip": True}
        layers.append(pen.chart(list(highest.values())).mark_text(**word).encode(x=x, y=y))
    return layers


def _deaths(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return each line's last figure where none follows although it was measured: the model was dead."""
    ends = []
    for (series,), line in frame.group_by("series", maintain_order=True):
        alive = line.sort("step").with_row_index().filter(pl.col("value").is_finite())
        if len(alive) and alive["index"][-1] + 1 < len(line):
            ends.append({"series": series, "step": alive["step"][-1], "value": alive["value"][-1]})
    return ends


def _decades(frame: pl.DataFrame) -> list[float]:
    """Return the ticks of a logarithmic axis: powers of ten, with 2 and 5 between where there are few."""
    known = frame.filter(pl.col("value").is_finite() & (pl.col("value") > 0))["value"].to_numpy()
    if not len(known):
        return []
    low, high = math.floor(math.log10(known.min())), math.ceil(math.log10(known.max()))
    between = (1, 2, 5) if high - low <= 2 else (1,)
    ticks = [float(f"{m}e{k}") for k in range(low, high + 1) for m in between]
    within = [t for t in ticks if known.min() / 1.01 <= t <= known.max() * 1.01]
    return within if len(within) > 1 else []


def _hover(pen: Pen, figure: Figure, x: Any) -> list[Any]:
    """Return a rule that follows the pointer and says every line's figure there."""
    alt = pen.alt
    say = share if figure.scale == "share" else number
    frame = figure.frame.filter(pl.col("window") != 5) if figure.frame["window"].n_unique() > 1 else figure.frame
    rows: dict[int, dict[str, Any]] = {}
    names = {line.label: f"f{i}" for i, line in enumerate(figure.lines)}
    for step, series, value in frame.select("step", "series", "value").iter_rows():
        empty = {"step": step, **dict.fromkeys(names.values(), DASH)}
        rows.setdefault(step, empty)[names[series]] = say(value)
    near = alt.selection_point(
        name="near", nearest=True, on="pointermove", clear="pointerout", fields=["step"], empty=False
    )
    tips = [alt.Tooltip("step:Q", title=figure.x, format="d")]
    tips += [alt.Tooltip(f"{name}:N", title=label) for label, name in names.items()]
    return [
        pen.chart(list(rows.values()))
        .mark_rule(color="var(--quiet)", clip=True)
        .encode(x=x, opacity=alt.condition(near, alt.value(0.6), alt.value(0)), tooltip=tips)
        .add_params(near)
    ]


def _marks(pen: Pen, marks: Sequence[Mark], x: Any) -> list[Any]:
    layers = []
    for mark in marks:
        if mark.gradual is not None:
            band = pen.chart([{"step": mark.gradual[0], "end": mark.gradual[1]}])
            layers.append(band.mark_rect(color="var(--gold)", opacity=0.12, clip=True).encode(x=x, x2="end:Q"))
        if mark.collapse is not None and mark.interval is not None:
            low, high = mark.interval
            if high > low:
                band = pen.chart([{"step": low, "end": high}])
                layers.append(band.mark_rect(color=mark.color, opacity=0.16, clip=True).encode(x=x, x2="end:Q"))
            rule = pen.chart([{"step": mark.collapse}])
            layers.append(rule.mark_rule(color=mark.color, strokeWidth=1.5, strokeDash=[5, 3], clip=True).encode(x=x))
    return layers


def _disabling(pen: Pen, marks: Sequence[Mark], x: Any) -> list[Any]:
    edits = [{"step": e} for mark in marks for e in mark.disabling]
    if not edits:
        return []
    point = pen.chart(edits).mark_point(shape="triangle-down", size=42, filled=True, color="var(--red)", opacity=1)
    return [point.encode(x=x, y=pen.alt.value(5))]


def _palette(alt: Any, figure: Figure) -> Any:
    return alt.Scale(domain=[x.label for x in figure.lines], range=[x.color for x in figure.lines])


def _dashes(alt: Any, figure: Figure) -> Any:
    return alt.Scale(
        domain=[x.label for x in figure.lines], range=[[4, 3] if x.dotted else [1, 0] for x in figure.lines]
    )


def _records(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return a frame's rows; what is not finite is null, and so a gap."""
    columns = [
        pl.when(pl.col(c).is_finite()).then(pl.col(c).round_sig_figs(5)).otherwise(None).alias(c)
        for c in ("value", "low", "high")
    ]
    return frame.with_columns(columns).select("step", "series", "window", "value", "low", "high").to_dicts()
