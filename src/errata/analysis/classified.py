"""The classes of single downstream items, and the interval of a weighted F1 over them."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.frames import RunFrames
from errata.analysis.intervals import FEW, wilson
from errata.probes.tasks.f1 import weighted_f1

__all__ = ["Labelled", "f1_interval", "labelled_items"]

Labelled = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The true class and the given one of each item; −1 where the answer was no label."""


def f1_interval(
    items: Labelled, rng: np.random.Generator, level: float = 0.95, samples: int = 500
) -> tuple[float, float]:
    """Bound a weighted F1 by the percentiles of its bootstrap distribution over items.

    Where all are right, none is, or there are few, resampling gives no width: then Wilson's interval of a share of that
    size stands in, as for other shares.

    Args:
        items: what was true and what was given.
        rng: draws the resamples.
        level: the coverage.
        samples: how many resamples.
    """
    truth, given = items
    value = float(weighted_f1(truth, given))
    if len(truth) < FEW or value in (0.0, 1.0):
        return wilson(value * len(truth), len(truth), level)
    drawn = rng.integers(0, len(truth), (samples, len(truth)))
    low, high = np.quantile(weighted_f1(truth[drawn], given[drawn]), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def labelled_items(run: RunFrames) -> dict[tuple[int, str], Labelled]:
    """Return the classes of every step and task (`downstream.<task>`) whose items have rows `.gold` and `.given`."""
    rows = run.rows().filter(pl.col("metric").str.contains(r"^downstream\..*\.(gold|given)$"))
    split = rows.select(
        "step",
        "prompt_id",
        "value",
        pl.col("metric").str.replace(r"\.(gold|given)$", "").alias("task"),
        pl.col("metric").str.extract(r"\.(gold|given)$").alias("what"),
    ).collect()
    gold, given = (split.filter(pl.col("what") == what).drop("what") for what in ("gold", "given"))
    keys = ["step", "task", "prompt_id"]
    both = gold.join(given, on=keys, suffix="_given", maintain_order="left")
    return {
        (step, task): (
            part["value"].to_numpy().astype(np.int64),
            part["value_given"].fill_nan(-1).to_numpy().astype(np.int64),
        )
        for (step, task), part in both.group_by("step", "task", maintain_order=True)
    }
