"""The charts of a screening, as Vega-Lite specifications."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.prediction import Prediction, features
from errata.analysis.screening import Screening
from errata.report.charts import CROSS, Pen
from errata.report.extras import vl_convert
from errata.report.theme import SERIES, resolve
from errata.report.words import safe_json

__all__ = ["VERDICTS", "distances", "doses", "plane", "roc_chart", "rocs", "svg", "told"]

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
VERDICTS = {"ordinary": SERIES[0], "damaging": SERIES[1], "disabling": "var(--red)"}
_HEIGHT = 260
_TIPS = ("subject:N", "prompt:N", "target_new:N", "verdict:N")


def distances(screenings: Mapping[str, Screening], *, alone: bool = False) -> dict[str, Any]:
    """Draw the distance ‖W−W₀‖_F / numel of every fact's edit, in ascending order; disabling ones are crossed.

    Args:
        screenings: by label.
        alone: whether the chart stands alone, with a fixed width and its own legend.
    """
    pen = Pen()
    frames = []
    for label, screening in screenings.items():
        ordered = screening.judged.filter(pl.col("distance").is_finite() & (pl.col("distance") > 0)).sort("distance")
        share = (pl.int_range(1, pl.len() + 1) / pl.len()).alias("share")
        frames.append(ordered.with_columns(pl.lit(label).alias("series"), share))
    frame = pl.concat(
        [f.select("series", "share", "distance", "subject", "prompt", "target_new", "verdict") for f in frames]
    )
    x = pen.alt.X(
        "share:Q", title="share of facts with a smaller or equal distance", axis=pen.alt.Axis(format=".0%", grid=False)
    )
    y = pen.alt.Y("distance:Q", title=None, scale=_log(pen, frame["distance"]), axis=_powers(pen))
    color = _color(pen, dict(zip(screenings, SERIES, strict=False)), "series", alone and len(screenings) > 1)
    dots = pen.chart(frame.to_dicts()).mark_point(size=22, filled=True, opacity=0.8)
    layers = [dots.encode(x=x, y=y, color=color, tooltip=[*_TIPS, pen.alt.Tooltip("distance:Q", format=".2e")])]
    if (dead := frame.filter(pl.col("verdict") == "disabling")).height:
        cross = pen.chart(dead.to_dicts()).mark_point(
            shape=CROSS, size=60, strokeWidth=2, color="var(--red)", opacity=1
        )
        layers.append(cross.encode(x=x, y=y))
    return pen.spec(layers, **_size(alone))


def plane(screening: Screening, *, alone: bool = False) -> dict[str, Any]:
    """Draw what each edit did: the unrelated facts left against perplexity, as a multiple of the unedited model's."""
    pen = Pen()
    times = (pl.col("perplexity") / screening.before["perplexity"]).alias("times")
    frame = screening.judged.with_columns(times).filter(pl.col("times").is_finite() & pl.col("unrelated").is_finite())
    x = pen.alt.X(
        "times:Q",
        title="perplexity, times the unedited model's",
        scale=_log(pen, frame["times"]),
        axis=_plain(pen, grid=False),
    )
    y = pen.alt.Y(
        "unrelated:Q", title=None, scale=pen.alt.Scale(domain=[0, 1]), axis=pen.alt.Axis(format=".0%", minExtent=40)
    )
    return pen.spec([_dots(pen, frame, x, y, alone)], **_size(alone))


def told(screening: Screening, name: str, *, alone: bool = False) -> dict[str, Any]:
    """Draw the size of each update against one figure that was known before it was applied."""
    pen = Pen()
    frame = screening.judged.with_columns(pl.Series("known", features(screening)[name]))
    frame = frame.filter(pl.col("relative").is_finite() & (pl.col("relative") > 0))
    x = pen.alt.X("known:Q", title=name, scale=pen.alt.Scale(zero=False, padding=8), axis=_plain(pen, grid=False))
    y = pen.alt.Y("relative:Q", title=None, scale=_log(pen, frame["relative"]), axis=_plain(pen))
    return pen.spec([_dots(pen, frame, x, y, alone)], **_size(alone))


def roc_chart(prediction: Prediction, *, alone: bool = False) -> dict[str, Any]:
    """Draw the regression's ROC curve over held-out facts; the diagonal is chance."""
    return rocs({"": prediction.curve}, prediction.verdict, alone=alone)


def rocs(curves: Mapping[str, Curve], verdict: str, *, alone: bool = False) -> dict[str, Any]:
    """Draw ROC curves; the diagonal is chance.

    Args:
        curves: false and true positive rate at every threshold, by label.
        verdict: what is told.
        alone: whether the chart stands alone, with a fixed width and its own legend.
    """
    pen = Pen()
    share = pen.alt.Axis(format=".0%", tickCount=5, minExtent=40)
    x = pen.alt.X("false:Q", title=f"of the others, called {verdict}", axis=share)
    y = pen.alt.Y("true:Q", title=None, axis=share)
    points = [
        {"series": label, "false": a, "true": b}
        for label, curve in curves.items()
        for a, b in zip(*(c.tolist() for c in curve), strict=True)
    ]
    chance = pen.chart([{"false": 0, "true": 0}, {"false": 1, "true": 1}]).mark_line(
        strokeDash=[2, 3], strokeWidth=1, color="var(--quiet)"
    )
    color = _color(pen, dict(zip(curves, SERIES, strict=False)), "series", alone and len(curves) > 1)
    # Facts of one score stand or fall together: between two thresholds the curve is straight.
    lines = pen.chart(points).mark_line().encode(x=x, y=y, color=color, order="false:Q")
    return pen.spec([chance.encode(x=x, y=y), lines], **_size(alone))


def doses(screening: Screening, *, alone: bool = False) -> dict[str, Any]:
    """Draw what an update of each size did: the unrelated facts left against ‖ΔW‖/‖W₀‖."""
    pen = Pen()
    frame = screening.judged.filter(pl.col("relative").is_finite() & pl.col("unrelated").is_finite())
    x = pen.alt.X("relative:Q", title="‖ΔW‖/‖W₀‖", scale=_log(pen, frame["relative"]), axis=_plain(pen, grid=False))
    y = pen.alt.Y(
        "unrelated:Q", title=None, scale=pen.alt.Scale(domain=[0, 1]), axis=pen.alt.Axis(format=".0%", minExtent=40)
    )
    return pen.spec([_dots(pen, frame, x, y, alone)], **_size(alone))


def svg(spec: Mapping[str, Any]) -> str:
    """Return a chart that stands alone as SVG, in the light palette."""
    return str(vl_convert().vegalite_to_svg(json.loads(safe_json(resolve(dict(spec))))))


def _dots(pen: Pen, frame: pl.DataFrame, x: Any, y: Any, alone: bool) -> Any:
    columns = ["subject", "prompt", "target_new", "verdict", "relative", "unrelated"]
    columns += [c for c in ("times", "known") if c in frame.columns]
    dots = pen.chart(frame.select(columns).to_dicts()).mark_point(size=30, filled=True, opacity=0.75)
    tips = [*_TIPS, pen.alt.Tooltip("relative:Q", format=".3g", title="‖ΔW‖/‖W₀‖")]
    return dots.encode(x=x, y=y, color=_color(pen, VERDICTS, "verdict", alone), tooltip=tips)


def _color(pen: Pen, palette: Mapping[str, str], field: str, legend: bool) -> Any:
    scale = pen.alt.Scale(domain=list(palette), range=list(palette.values()))
    return pen.alt.Color(f"{field}:N", scale=scale, legend=pen.alt.Legend(symbolType="circle") if legend else None)


def _log(pen: Pen, values: pl.Series) -> Any:
    """Return a logarithmic scale that spans a decade at least, so that a little scatter does not look like much."""
    known = values.to_numpy()
    if not len(known):
        return pen.alt.Scale(type="log")
    middle = math.log10(np.median(known))
    low, high = min(math.log10(known.min()), middle - 0.5), max(math.log10(known.max()), middle + 0.5)
    return pen.alt.Scale(type="log", domain=[10 ** (low - 0.05), 10 ** (high + 0.05)], nice=False)


def _powers(pen: Pen) -> Any:
    return pen.alt.Axis(format=".0e", tickCount=5, minExtent=40)


def _plain(pen: Pen, *, grid: bool = True) -> Any:
    return pen.alt.Axis(format="~g", tickCount=5, minExtent=40 if grid else 0, grid=grid)


def _size(alone: bool) -> dict[str, Any]:
    return {"width": 560 if alone else "container", "height": _HEIGHT}
