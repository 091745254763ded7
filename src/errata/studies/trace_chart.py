"""Causal tracing as a picture: a heat map for the terminal, and one for HTML or SVG."""

from pathlib import Path
from typing import Any

import polars as pl

from errata.errors import ConfigError
from errata.report.extras import altair
from errata.studies.trace import CLASSES, SITES, Trace

__all__ = ["chart", "save", "text_map"]

_SHADES = " ░▒▓█"
_TITLES = {"block": "after the block", "mlp": "feed-forward", "attention": "attention"}
_WIDTH = 7


def text_map(trace: Trace, site: str) -> str:
    """Draw the average indirect effect at one site: a row a class of positions, a column a layer.

    Shades run from none to the site's largest effect; the figures are the effects.
    """
    frame = trace.averages().filter(pl.col("site") == site)
    effects = {(where, layer): effect for where, layer, effect in frame.select("where", "layer", "effect").iter_rows()}
    layers = sorted({layer for _, layer in effects})
    largest = max(*effects.values(), 1e-12)
    lines = [f"{_TITLES[site]}, average indirect effect on P(object)"]
    lines.append(" " * 16 + "".join(f"{f'L{layer}':>{_WIDTH}}" for layer in layers))
    for where in (c for c in CLASSES if (c, layers[0]) in effects):
        cells = []
        for layer in layers:
            effect = effects[where, layer]
            shade = _SHADES[min(len(_SHADES) - 1, int(max(0.0, effect) / largest * len(_SHADES)))]
            cells.append(f"{shade}{effect:>{_WIDTH - 1}.3f}")
        lines.append(f"{where:<16}" + "".join(cells))
    return "\n".join(lines)


def chart(trace: Trace) -> Any:
    """Return an altair chart: a heat map for each site, layers across, classes of positions down."""
    alt = altair()
    data = trace.averages().with_columns(pl.col("site", "where").cast(pl.String)).to_dicts()
    maps = [
        alt.Chart(alt.Data(values=[row for row in data if row["site"] == site]), title=_TITLES[site])
        .mark_rect()
        .encode(
            x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("where:N", title=None, sort=list(CLASSES)),
            color=alt.Color("effect:Q", title="indirect effect", scale=alt.Scale(scheme="purples")),
            tooltip=["where:N", "layer:O", alt.Tooltip("effect:Q", format=".4f"), "facts:Q"],
        )
        .properties(width=alt.Step(22), height=alt.Step(22))
        for site in SITES
    ]
    return alt.hconcat(*maps).resolve_scale(color="independent")


def save(trace: Trace, file: Path) -> None:
    """Write the heat map (.html, .svg) or every row behind it (.csv, .parquet).

    Raises:
        ConfigError: when the file's ending is another.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".html":
        chart(trace).save(str(file), inline=True)
    elif file.suffix == ".svg":
        chart(trace).save(str(file))
    elif file.suffix == ".csv":
        trace.rows.write_csv(file)
    elif file.suffix == ".parquet":
        trace.rows.write_parquet(file)
    else:
        raise ConfigError(f"--out {file}: give a name ending in .html, .svg, .csv or .parquet.")
