"""Find the two phases of a curve by an algorithm: where it starts to decline, and where it collapses.

The first paper reads both off its plots (2401.07453, §3.2 to 3.4). Here the curve is described by straight lines with
zero or one break, fitted by least squares. A break is a *collapse* when

1. the Bayesian information criterion prefers one break to none, the break's place counted as a parameter;
2. the fall across it exceeds a floor, both between the two fitted lines and between the points next to it, and is
   steeper than just before and after. The lines alone would call a bent but smooth curve broken, the points alone a
   steep, straight one.

A curve that turns NaN for good (a dead model has no figures) collapses there at the latest. The interval comes from
refitting curves rebuilt from the fit and resampled blocks of its residuals.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from errata.analysis.breaks import best_break, lasts, least_points, line, line_errors
from errata.errors import AnalysisError

__all__ = ["Direction", "Phases", "find_phases", "level_break"]

Array = NDArray[np.float64]
Direction = Literal["falling", "rising", "auto"]

MIN_POINTS = 8
"""Fewer finite points than this say nothing about phases."""
FLOOR = 0.2
"""The least fall that is a collapse, of a total loss."""
LEVEL = "fall between two levels at an edit judged harmful"
"""The reason that `level_break` gives."""
LEAST_PHASE = 3
"""A gradual phase has this many points at least; a lone low one at the end is none."""


@dataclass(frozen=True)
class Phases:
    """What was found in one curve.

    Args:
        collapse_step: the first step after the break; None when there is none.
        interval: the steps between which the collapse lies, ends included; None without collapse.
        gradual_start: the first step from which the curve is worse than at its start, beyond noise; None when it never
            is before the collapse.
        before: the level just before the collapse (or at the end, without one).
        after: the level just after it; NaN when the curve turned NaN.
        direction: which way is worse: "falling" or "rising".
        reason: why there is no collapse, or what kind it is.
    """

    collapse_step: float | None
    interval: tuple[float, float] | None
    gradual_start: float | None
    before: float
    after: float
    direction: str
    reason: str


def find_phases(
    steps: Array,
    values: Array,
    *,
    rng: np.random.Generator,
    direction: Direction = "auto",
    floor: float = FLOOR,
    scale: float | None = None,
    near: int | None = None,
    samples: int = 300,
    level: float = 0.95,
) -> Phases:
    """Find the gradual phase and the collapse of a curve.

    Args:
        steps: edits made; sorted here, and values of the same step are averaged.
        values: the figure at each; NaN and infinity mean that the model gave none.
        rng: resamples the residuals for the interval.
        direction: which way is worse; "auto" takes the way the curve breaks or, unbroken, leans.
        floor: the least fall that is a collapse, in units of `scale`.
        scale: the size of a total loss: 1 for rates; by default the largest finite magnitude.
        near: points on either side of the break that must show the fall; default a fortieth of the curve, at least 3
            (2 on curves of fewer than 20 points). Series of zeros and ones need more, about 20.
        samples: resampled curves for the interval.
        level: the interval's coverage.

    Raises:
        AnalysisError: when there is no point at all, or steps and values differ in number.
    """
    steps, values = _tidy(steps, values)
    finite = np.isfinite(values)
    if not finite.any():
        return Phases(float(steps[0]), (float(steps[0]),) * 2, None, math.nan, math.nan, "falling", "never finite")
    last = int(np.flatnonzero(finite)[-1])
    death = last + 1 if last + 1 < len(steps) else None
    x, y = steps[finite], values[finite]
    near = near or max(3 if len(x) >= 20 else 2, round(len(x) / 40))
    size = (float(np.abs(y).max()) or 1.0) if scale is None else scale
    found = best_break(x, y, direction, floor * size, near) if len(x) >= MIN_POINTS else None
    sign = found.sign if found else _lean(x, y, direction)
    kept = found.index if found else len(x)
    gradual = _gradual_start(x[:kept], sign * y[:kept], size)
    way = "falling" if sign > 0 else "rising"
    if found:
        low, high = _interval(x, y, kept, near, rng, samples, level)
        before, after = float(y[max(0, kept - near) : kept].mean()), float(y[kept : kept + near].mean())
        return Phases(float(x[kept]), (low, high), gradual, before, after, way, "break")
    before = float(y[-min(len(y), near) :].mean())
    if death is not None:
        span = (_after(steps, death), float(steps[death]))
        return Phases(float(steps[death]), span, gradual, before, math.nan, way, "no finite value from there on")
    why = "no break beyond the floor" if len(x) >= MIN_POINTS else f"only {len(x)} points, {MIN_POINTS} are needed"
    return Phases(None, None, gradual, before, before, way, why)


def level_break(
    steps: Array, values: Array, edits: Sequence[int], found: Phases, fall: float, near: int, least: int = 1
) -> Phases:
    """Return a break between two levels that an edit known to be harmful explains; else what was found without.

    A line through one or two points says nothing, so that `find_phases` sees no break close to a curve's ends. An edit
    that its size alone makes suspect is evidence of its own, and there a fall between levels will do.

    Args:
        steps: rising steps.
        values: the figure at each.
        edits: the suspect edits in their order.
        found: the curve's phases, without a collapse.
        fall: the least fall.
        near: points on either side that give the level.
        least: the fewest points on either side that are a level.
    """
    finite = np.isfinite(values)
    x, y = steps[finite], values[finite]
    sign = 1 if found.direction == "falling" else -1
    edge = least_points(len(x), near) if len(x) >= MIN_POINTS else len(x)
    for place in np.unique(np.searchsorted(x, edits)):
        # Elsewhere lines were fitted, and their word stands.
        if least <= place <= len(x) - least and min(place, len(x) - place) < edge:
            before, after = float(y[max(0, place - near) : place].mean()), float(y[place : place + near].mean())
            if sign * (before - after) >= fall and lasts(sign * y, int(place), near, fall):
                gradual = found.gradual_start if found.gradual_start is not None else math.inf
                start = gradual if gradual < x[place] else None
                span = (_after(x, int(place)), float(x[place]))
                return Phases(float(x[place]), span, start, before, after, found.direction, LEVEL)
    return found


def _tidy(steps: Array, values: Array) -> tuple[Array, Array]:
    """Sort by step and average values of the same step."""
    if len(steps) != len(values) or not len(steps):
        raise AnalysisError(
            f"found {len(steps)} steps and {len(values)} values; a curve needs one value a step, and at least one."
        )
    unique, place = np.unique(np.asarray(steps, float), return_inverse=True)
    with np.errstate(invalid="ignore"):
        means = np.bincount(place, np.asarray(values, float)) / np.bincount(place)
    return unique, means


def _lean(x: Array, y: Array, direction: Direction) -> int:
    """Return +1 when worse is down, −1 when worse is up."""
    if direction != "auto":
        return 1 if direction == "falling" else -1
    return 1 if len(x) < 2 or line(x, y)[0] <= 0 else -1


def _after(steps: Array, index: int) -> float:
    """Return the first step that can have caused what is first seen at `steps[index]`."""
    if not index:
        return float(steps[0])
    earlier = float(steps[index - 1])
    return earlier + 1 if earlier.is_integer() and float(steps[index]).is_integer() else earlier


def _interval(
    x: Array, y: Array, index: int, near: int, rng: np.random.Generator, samples: int, level: float
) -> tuple[float, float]:
    """Bound the break by refitting curves made of the fit and resampled blocks of its residuals, each line's own.

    Only the surroundings are fitted, an eighth of the curve on either side: further away there may be another break,
    which is not what the interval is about.
    """
    reach = max(3 * near, len(x) // 8)
    first, last = max(0, index - reach), min(len(x), index + reach)
    here, place = x[first:last], index - first
    fit, rest = np.empty(len(here)), np.empty(len(here))
    curves = np.empty((samples, len(here)))
    for part in (slice(0, place), slice(place, len(here))):
        fit[part] = np.polyval(line(here[part], y[first:last][part]), here[part])
        rest[part] = y[first:last][part] - fit[part]
        n = len(fit[part])
        # Residuals of neighbouring steps resemble one another; blocks of n^(1/3) keep that.
        block = max(1, round(n ** (1 / 3)))
        starts = rng.integers(0, n - block + 1, (samples, -(-n // block)))
        picks = (starts[:, :, None] + np.arange(block)).reshape(samples, -1)[:, :n]
        curves[:, part] = fit[part] + rest[part][picks]
    errors = line_errors(here, curves)
    errors[:, :2] = errors[:, len(here) - 1 :] = np.inf
    breaks = np.append(errors.argmin(axis=1), place)
    low, high = np.quantile(breaks, [(1 - level) / 2, (1 + level) / 2], method="nearest").astype(int)
    return _after(x, first + min(low, place)), float(x[first + max(high, place)])


def _gradual_start(x: Array, y: Array, scale: float) -> float | None:
    """Return the first step from which a curve (worse is down) stays below its start beyond noise.

    The curve is smoothed by a centred mean of w points, w a twentieth of them and at least 5; its start is the mean of
    the first w/2. Noise σ is what neighbouring points differ by, median|Δ| / (0.6745 √2) (the root mean square where
    most do not differ), which neither a slow trend nor a few wild points swell.
    Below means lower by more than 3 σ √(3/w), the deviation of the difference of the two means, and by 1 % of `scale`;
    stays means nine in ten of all later points, and at least `LEAST_PHASE`.
    """
    if len(x) < 6:
        return None
    w = max(5, len(x) // 20) | 1
    half = w // 2
    sums = np.concatenate([[0.0], np.cumsum(y)])
    i = np.arange(len(y))
    lo, hi = np.maximum(0, i - half), np.minimum(len(y), i + half + 1)
    smooth = (sums[hi] - sums[lo]) / (hi - lo)
    jitter = np.diff(y)
    noise = (float(np.median(np.abs(jitter))) / 0.6745 or math.sqrt(float(np.mean(jitter**2)))) / math.sqrt(2)
    start = float(y[: max(half, 1)].mean())
    bound = start - max(3 * noise * math.sqrt(3 / w), 0.01 * scale)
    below = smooth < bound
    share = np.cumsum(below[::-1])[::-1] / np.arange(len(y), 0, -1)
    hits = np.flatnonzero(below & (share >= 0.9))
    # A centred mean feels a fall half a window early; the phase starts with the first point that is low itself.
    low = np.flatnonzero(y < bound)
    low = low[low >= hits[0]] if len(hits) else low[:0]
    return float(x[low[0]]) if len(low) and len(y) - low[0] >= LEAST_PHASE else None
