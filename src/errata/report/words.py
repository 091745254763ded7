"""Figures as a reader wants them: what is dead says so, what was not measured is a dash, neither is ever 0."""

import json
import math
from typing import Any

__all__ = ["DASH", "DEAD", "bounded", "figure", "number", "outcome", "safe_json", "share", "span"]

DASH = "–"
DEAD = "dead"

_FIGURES = {
    "paraphrase.exact": "new facts in other words",
    "unrelated.exact": "unrelated facts",
    "same_subject.exact": "other facts of the same subjects",
    "neighborhood.success": "facts of neighbors",
    "locality.exact": "answers about neighbors",
}


def figure(metric: str) -> str:
    """Say in words what a metric measures, as the charts do; its own name where there are none."""
    if metric.startswith("downstream."):
        task, _, what = metric.removeprefix("downstream.").rpartition(".")
        return f"task {task} ({'F1' if what == 'f1' else what})"
    return _FIGURES.get(metric, metric)


def share(value: float | None) -> str:
    """Say a share in per cent."""
    if value is None:
        return DASH
    return f"{value * 100:.0f} %" if math.isfinite(value) else DEAD


def bounded(value: float, low: float, high: float, missing: int = 0) -> str:
    """Say a share with its interval, and how many answers are missing from it."""
    bounds = f" ({low * 100:.0f}–{high * 100:.0f})" if math.isfinite(value + low + high) else ""
    return f"{share(value)}{bounds}" + (f", {missing:,} missing" if missing else "")


def measured(value: float, low: float, high: float, missing: int = 0) -> str:
    """Say any figure with its interval, and how many answers are missing from it."""
    bounds = f" ({number(low)}–{number(high)})" if math.isfinite(value + low + high) and high > low else ""
    return f"{number(value)}{bounds}" + (f", {missing:,} missing" if missing else "")


def outcome(value: float | None) -> str:
    """Say a success as yes or no, and a share of several as such."""
    return {0.0: "no", 1.0: "yes"}.get(value, share(value)) if value is not None else DASH


def number(value: float | None, digits: int = 3) -> str:
    """Say a figure with so many significant digits."""
    if value is None:
        return DASH
    if not math.isfinite(value):
        return DEAD
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def span(low: float, high: float) -> str:
    """Say an interval of edits."""
    return f"{low:,.0f}" if low == high else f"{low:,.0f}–{high:,.0f}"


def safe_json(content: Any) -> str:
    """Write strict JSON that may stand inside a script element: NaN becomes null, and nothing in it can close it."""
    text = json.dumps(_finite(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {str(k): _finite(v) for k, v in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(v) for v in content]
    return content
