"""errata phases."""

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["phases"]


class Worse(StrEnum):
    """Which way of a curve is worse."""

    auto = "auto"
    falling = "falling"
    rising = "rising"


def phases(
    csv: Annotated[Path, typer.Argument(metavar="CSV", help="A CSV file with a header, or a Parquet file.")],
    x: Annotated[str, typer.Option("--x", help="The column of steps.")] = "step",
    y: Annotated[
        str, typer.Option("--y", help="The column of figures; empty, nan and null mean a dead model.")
    ] = "value",
    direction: Annotated[Worse, typer.Option(help="Which way is worse.")] = Worse.auto,
    floor: Annotated[float, typer.Option(help="The least fall that is a collapse, as a share of --scale.")] = 0.2,
    scale: Annotated[float | None, typer.Option(help="A total loss; 1 for rates. Default: the largest figure.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap that gives the interval.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find where a curve starts to decline and where it collapses."""
    import numpy as np

    from errata.analysis.phases import find_phases
    from errata.analysis.tables import read_curve

    steps, values = read_curve(csv, x, y)
    rng = np.random.default_rng(seed)
    found = find_phases(steps, values, rng=rng, direction=direction.value, floor=floor, scale=scale)
    if as_json:
        typer.echo(json.dumps({k: _plain(v) for k, v in asdict(found).items()}))
    elif found.collapse_step is None or found.interval is None:
        typer.echo(f"no collapse ({found.reason})")
    else:
        low, high = found.interval
        after = "nothing (dead)" if np.isnan(found.after) else f"{found.after:.4g}"
        typer.echo(f"collapse at {found.collapse_step:g} ({low:g} to {high:g}): {found.before:.4g} to {after}")
    if not as_json and found.gradual_start is not None:
        typer.echo(f"gradual decline from {found.gradual_start:g} on")


def _plain(value: object) -> object:
    """Return what JSON can hold: whole steps as integers, NaN as null."""
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value
