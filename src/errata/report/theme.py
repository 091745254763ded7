"""Colours and type of the charts: one palette for light and one for dark, told apart by the colour-blind too."""

import json
import re
from typing import Any

__all__ = ["SERIES", "config", "css", "resolve"]

# The series are Okabe and Ito's colours (Color Universal Design, 2008), darkened for thin lines on paper; red is kept
# for the collapse alone, which is also drawn differently.
LIGHT = {
    "paper": "#fdfcf9",
    "card": "#ffffff",
    "ink": "#22252a",
    "quiet": "#686c74",
    "line": "#e4e0d7",
    "red": "#b3261e",
    "gold": "#e0a526",
    "s1": "#0b6aa8",
    "s2": "#c77700",
    "s3": "#00806a",
    "s4": "#a8497f",
    "s5": "#3f9ad0",
    "s6": "#7d6b00",
    "s7": "#5b5f66",
}
DARK = {
    "paper": "#16181b",
    "card": "#1d2024",
    "ink": "#e8e6e1",
    "quiet": "#9da1a9",
    "line": "#32363c",
    "red": "#ff8a7d",
    "gold": "#d9a441",
    "s1": "#5bb1ec",
    "s2": "#f0a63a",
    "s3": "#3cc4a4",
    "s4": "#dd8fbb",
    "s5": "#9fd3f5",
    "s6": "#cdbb4a",
    "s7": "#b3b7be",
}
SERIES = tuple(f"var(--{k})" for k in LIGHT if re.fullmatch(r"s\d", k))
"""Colours of the lines, as the page's style sheet names them."""
FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


def css() -> str:
    """Return the palettes as custom properties, dark where the reader's system is; paper is always light."""

    def block(palette: dict[str, str]) -> str:
        return ":root{" + "".join(f"--{k}:{v};" for k, v in palette.items()) + "}"

    return f"{block(LIGHT)}\n@media screen and (prefers-color-scheme: dark){{{block(DARK)}}}"


def config() -> dict[str, Any]:
    """Return the Vega-Lite configuration of every chart."""
    return {
        "background": "transparent",
        "font": FONT,
        "padding": {"left": 2, "right": 8, "top": 6, "bottom": 2},
        "view": {"stroke": None},
        "axis": {
            "labelColor": "var(--quiet)",
            "titleColor": "var(--quiet)",
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "gridColor": "var(--line)",
            "gridWidth": 1,
            "domain": False,
            "ticks": False,
            "labelPadding": 6,
        },
        "legend": {
            "labelColor": "var(--ink)",
            "title": None,
            "orient": "top",
            "symbolType": "stroke",
            "symbolOpacity": 1,
        },
        "line": {"strokeWidth": 2, "strokeCap": "round", "strokeJoin": "round"},
    }


def resolve(spec: dict[str, Any]) -> dict[str, Any]:
    """Replace the custom properties of a chart by the light palette, for a picture that stands alone."""
    text = re.sub(r"var\(--(\w+)\)", lambda m: LIGHT[m.group(1)], json.dumps(spec))
    resolved: dict[str, Any] = json.loads(text)
    return resolved | {"background": LIGHT["card"]}
