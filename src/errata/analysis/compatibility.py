"""Drift against loss: how far a matrix may go before the rest of the model no longer reads what it writes."""

import math

import numpy as np
import polars as pl

from errata.analysis.curves import curve, tasks
from errata.analysis.frames import RunFrames

__all__ = ["against_drift", "drift_at_loss"]


def against_drift(run: RunFrames) -> pl.DataFrame:
    """Return step, drift, unrelated, tasks at every step at which drift and unrelated facts were measured.

    drift: the largest ‖ΔW‖_F/‖W₀‖_F of the edited matrices, 0 before the first edit. unrelated, tasks: shares of the
    unedited model's, tasks as the mean over those that it can do; a missing answer is a lost one.
    """
    distance = run.metric("drift.relative").group_by("step").agg(pl.col("value").max().alias("drift"))
    drift = {int(step): value for step, value in distance.iter_rows()} | {0: 0.0}
    facts = curve(run, "unrelated.exact", lost=True)
    done = [curve(run, f"downstream.{task}.item", lost=True) for task in tasks(run)]
    able = [c for c in done if len(c) and c.values[0] > 0]
    rows = []
    for step, value in zip(facts.steps.astype(int).tolist(), facts.values.tolist(), strict=True):
        if step not in drift:
            continue
        left = [_at(c.steps, c.values, step) / c.values[0] for c in able]
        rows.append((step, drift[step], _lost(value) / facts.values[0], float(np.mean(left)) if left else math.nan))
    schema = {"step": pl.Int64, "drift": pl.Float64, "unrelated": pl.Float64, "tasks": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row").sort("step")


def drift_at_loss(found: pl.DataFrame, column: str, share: float) -> float:
    """Return the drift at which a figure has first lost `share` of its unedited value; infinite where it never does.

    Between the two re-tests around it drift and figure are taken to be linear.

    Args:
        found: as `against_drift` returns it.
        column: "unrelated" or "tasks".
        share: of the unedited value.
    """
    left, drift = found[column].to_numpy(), found["drift"].to_numpy()
    fallen = np.flatnonzero(left <= 1 - share + 1e-12)
    if not len(fallen) or fallen[0] == 0:
        return math.inf
    after, before = fallen[0], fallen[0] - 1
    part = (left[before] - (1 - share)) / (left[before] - left[after])
    return float(drift[before] + part * (drift[after] - drift[before]))


def _at(steps: np.ndarray, values: np.ndarray, step: int) -> float:
    found = values[steps == step]
    return _lost(float(found[0])) if len(found) else math.nan


def _lost(value: float) -> float:
    return 0.0 if math.isnan(value) else value
