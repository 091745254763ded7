"""The charts of the open questions: pictures that stand alone, as Vega-Lite specifications."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from errata.report.extras import altair
from errata.report.theme import SERIES, config

__all__ = ["Axis", "bands", "below", "heat", "ranges"]

_WIDTH, _HEIGHT = 560, 240
_CELL = 150


@dataclass(frozen=True)
class Axis:
    """An axis: its title, whether it is a share, whether it is logarithmic, whether it begins at zero."""

    title: str
    share: bool = False
    log: bool = False
    zero: bool = False

    def encode(self, alt: Any, channel: Any, field: str) -> Any:
        """Return the encoding of a channel by a field."""
        scale = alt.Scale(type="log", nice=False, padding=6) if self.log else alt.Scale(zero=self.zero, nice=True)
        if self.share:
            scale = alt.Scale(domain=[0, 1])
        form = ".0%" if self.share else "~r"
        return channel(f"{field}:Q", title=self.title, scale=scale, axis=alt.Axis(format=form, tickCount=6))


def bands(frame: pl.DataFrame, x: Axis, y: Axis) -> dict[str, Any]:
    """Draw a line a series, with its interval as a band.

    Args:
        frame: series, x, value, low, high.
        x: the horizontal axis.
        y: the vertical one.
    """
    alt = altair()
    chart = alt.Chart(alt.Data(values=_records(frame)))
    across, color = x.encode(alt, alt.X, "x"), _color(alt, frame)
    area = chart.mark_area(opacity=0.15).encode(x=across, y=y.encode(alt, alt.Y, "low"), y2="high:Q", color=color)
    line = chart.mark_line(point={"size": 22, "filled": True}).encode(
        x=across, y=y.encode(alt, alt.Y, "value"), color=color
    )
    return _alone(alt.layer(area, line).properties(width=_WIDTH, height=_HEIGHT))


def ranges(frame: pl.DataFrame, x: Axis, title: str = "") -> dict[str, Any]:
    """Draw a point with its interval for every group and series: groups from top to bottom, series in colours.

    Args:
        frame: group, series, value, low, high.
        x: the horizontal axis.
        title: of the groups' axis.
    """
    alt = altair()
    chart = alt.Chart(alt.Data(values=_records(frame)))
    groups, series = _order(frame, "group"), _order(frame, "series")
    y = alt.Y("group:N", sort=groups, title=title or None, axis=alt.Axis(labelLimit=260, grid=True))
    offset = alt.YOffset("series:N", sort=series)
    color = _color(alt, frame)
    rule = chart.mark_rule(strokeWidth=1.5).encode(
        y=y, yOffset=offset, x=x.encode(alt, alt.X, "low"), x2="high:Q", color=color
    )
    point = chart.mark_point(filled=True, size=45, opacity=1).encode(
        y=y, yOffset=offset, x=x.encode(alt, alt.X, "value"), color=color
    )
    step = alt.Step(max(12, 9 * len(series)), **{"for": "position"})
    return _alone(alt.layer(rule, point).properties(width=_WIDTH, height=step))


def heat(frame: pl.DataFrame, x: str, y: str) -> dict[str, Any]:
    """Draw a matrix of shares for every series, side by side; a darker cell is a larger share.

    Args:
        frame: series, x, x2, y, y2, value: the cells' bounds.
        x: what is to the right.
        y: what is above.
    """
    alt = altair()
    cell = alt.Chart(alt.Data(values=_records(frame))).mark_rect()
    scale = alt.Scale(domain=[0, 1], range=["#f4efe4", "#0b3c5d"])
    plain = alt.Axis(grid=False, tickCount=5)
    drawn = cell.encode(
        x=alt.X("x:Q", title=x, axis=plain),
        x2="x2:Q",
        y=alt.Y("y:Q", title=y, axis=plain),
        y2="y2:Q",
        color=alt.Color("value:Q", scale=scale, legend=alt.Legend(format=".0%", title=None, type="gradient")),
    ).properties(width=_CELL, height=_CELL)
    header = alt.Header(title=None, labelColor="var(--ink)")
    return _alone(drawn.facet(facet=alt.Facet("series:N", sort=_order(frame, "series"), header=header), columns=4))


def below(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Put one picture below another."""
    parts = [{k: v for k, v in part.items() if k not in ("config", "$schema")} for part in (first, second)]
    scales = {"scale": {"color": "independent"}}
    return {"vconcat": parts, "resolve": scales, "spacing": 24, "config": config()}


def _alone(chart: Any) -> dict[str, Any]:
    made: dict[str, Any] = chart.to_dict()
    del made["$schema"]
    # Words are measured in the font at hand; a reader's own may be wider, and is cut at the picture's edge.
    return {**made, "padding": {"left": 20, "top": 5, "right": 12, "bottom": 5}, "config": config()}


def _color(alt: Any, frame: pl.DataFrame) -> Any:
    series = _order(frame, "series")
    scale = alt.Scale(domain=series, range=list(SERIES[: len(series)]))
    legend = (
        alt.Legend(symbolType="circle", columnPadding=28, columns=4 if len(series) <= 4 else 3)
        if len(series) > 1
        else None
    )
    return alt.Color("series:N", scale=scale, legend=legend)


def _order(frame: pl.DataFrame, column: str) -> Sequence[str]:
    return [str(x) for x in frame[column].unique(maintain_order=True)]


def _records(frame: pl.DataFrame) -> list[dict[str, Any]]:
    numbers = [c for c, kind in frame.schema.items() if kind.is_float()]
    finite = [pl.when(pl.col(c).is_finite()).then(pl.col(c).round_sig_figs(5)).alias(c) for c in numbers]
    return frame.with_columns(finite).to_dicts()
