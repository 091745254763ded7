"""How far a run goes before a figure has fallen by some share of what it was: a time, censored where it never does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from errata.analysis.curves import curve
from errata.analysis.frames import RunFrames

__all__ = ["Reach", "fall_step", "reach"]


@dataclass(frozen=True)
class Reach:
    """How far several runs go.

    Args:
        steps: of each run: where the fall was first seen, or the last step that was measured.
        fell: whether it was seen.
        median: of the runs' steps; infinite where the middle run never falls.
        low: of its 95 % interval.
        high: infinite where the runs cannot bound it.
    """

    steps: tuple[int, ...]
    fell: tuple[bool, ...]
    median: float
    low: float
    high: float


def fall_step(run: RunFrames, metric: str, share: float) -> tuple[int, bool]:
    """Return the first step at which a metric's mean has lost at least `share` of its unedited value, and True.

    Where that is never seen: the last step measured, and False. Steps are those of the re-tests, so that a fall comes
    at most one interval earlier. A missing answer is a lost one.
    """
    found = curve(run, metric, lost=True)
    if not len(found) or found.steps[0] != 0:
        return 0, False
    values = np.nan_to_num(found.values)
    fallen = np.flatnonzero(values <= (1 - share) * values[0] + 1e-12)
    return (int(found.steps[fallen[0]]), True) if len(fallen) else (int(found.steps[-1]), False)


def reach(times: Sequence[tuple[int, bool]], rng: np.random.Generator, samples: int = 2000) -> Reach:
    """Bound the median of runs' falls by the percentiles of its bootstrap over runs, with those that never fall last.

    The median is the lower middle one of an even number, so that half of the runs have fallen by then. A resample in
    which the middle run never falls counts as infinite.

    Args:
        times: step and whether it fell, of each run.
        rng: draws the resamples.
        samples: how many.
    """
    steps = np.array([step if fell else math.inf for step, fell in times])
    if not len(steps):
        return Reach((), (), math.nan, math.nan, math.nan)
    middle = (len(steps) - 1) // 2
    drawn = np.sort(steps[rng.integers(0, len(steps), (samples, len(steps)))], axis=1)[:, middle]
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    median = float(np.sort(steps)[middle])
    return Reach(tuple(s for s, _ in times), tuple(f for _, f in times), median, float(low), float(high))


def as_lifetimes(times: Sequence[tuple[int, bool]]) -> pl.DataFrame:
    """Return runs' falls as `survival` and `logrank` take lifetimes: after, event."""
    return pl.DataFrame(times, schema={"after": pl.Float64, "event": pl.Boolean}, orient="row")
