"""How far a run goes before a figure has fallen by some share of what it was: a time, censored where it never does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

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
        low: of the interval for the median; of few runs the first fall.
        high: of the same; infinite where it reaches runs that never fall.
        coverage: how often such an interval holds the median, at least.
    """

    steps: tuple[int, ...]
    fell: tuple[bool, ...]
    median: float
    low: float
    high: float
    coverage: float


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


def reach(times: Sequence[tuple[int, bool]], level: float = 0.95) -> Reach:
    """Bound the median of runs' falls by two of them, counted from either end (the sign test's interval).

    Of n runs the k-th from below and from above hold the median in 1 − 2 P(B < k) of all cases or more, B binomial with
    n trials of a half. Taken is the narrowest pair that reaches the level. Fewer than six runs have none: theirs is the
    range, with a coverage of 1 − 2^(1−n), which is 7 in 8 for four. Runs that never fall come last.

    The median is the lower middle one of an even number, so that half of the runs have fallen by then.

    Args:
        times: step and whether it fell, of each run.
        level: the coverage to reach, where there are runs enough.
    """
    steps = np.sort([step if fell else math.inf for step, fell in times])
    n = len(steps)
    if not n:
        return Reach((), (), math.nan, math.nan, math.nan, math.nan)
    coverage = 1 - 2 * binom.cdf(np.arange((n + 1) // 2), n, 0.5)
    enough = np.flatnonzero(coverage >= level)
    k = int(enough[-1]) if len(enough) else 0
    bounds = float(steps[k]), float(steps[n - 1 - k])
    median = float(steps[(n - 1) // 2])
    return Reach(tuple(s for s, _ in times), tuple(f for _, f in times), median, *bounds, max(0.0, float(coverage[k])))
