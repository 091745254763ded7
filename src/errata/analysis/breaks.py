"""Fit straight lines with zero or one break by least squares, all places of the break at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Break", "best_break", "lasts", "least_points", "line", "line_errors"]

Array = NDArray[np.float64]


STEEPER = 1.25
"""A break falls this much faster than the curve just before and after it; smooth decay falls as fast everywhere."""


@dataclass(frozen=True)
class Break:
    """A break that was accepted.

    Args:
        index: the first point after it.
        sign: +1 when the curve falls there, −1 when it rises.
        fall: by how much, between the two lines.
    """

    index: int
    sign: int
    fall: float


def line(x: Array, y: Array) -> Array:
    """Return slope and level of the least-squares line; a single point gives a level one."""
    if len(x) < 2:
        return np.array([0.0, float(y[0])])
    dx = x - x.mean()
    slope = float(dx @ (y - y.mean()) / (dx @ dx))
    return np.array([slope, float(y.mean() - slope * x.mean())])


def line_errors(x: Array, y: Array) -> Array:
    """Return the squared error of two lines for a break before each index 0..n; index 0 and n mean one line.

    Prefix sums give every line's error in O(n): Σy² − n ȳ² − S_xy²/S_xx. It is the cost that `ruptures` minimises with
    its model "linear" and regressors [value, t, 1], in linear instead of quadratic time, so that resampling is cheap.

    Args:
        x: n steps.
        y: values, shaped (..., n).
    """
    y = np.atleast_2d(y)
    scaled = (x - x.mean()) / (np.ptp(x) or 1.0)
    centred = y - y.mean(axis=1, keepdims=True)
    left = _prefix_errors(scaled, centred)
    right = _prefix_errors(scaled[::-1], centred[:, ::-1])[:, ::-1]
    return left + right


def _prefix_errors(x: Array, y: Array) -> Array:
    """Return the squared error of a line through the first 0, 1, ..., n points."""
    n = np.arange(1, len(x) + 1)
    sx, sxx = np.cumsum(x), np.cumsum(x * x)
    sy, sxy, syy = np.cumsum(y, axis=1), np.cumsum(x * y, axis=1), np.cumsum(y * y, axis=1)
    spread = sxx - sx * sx / n
    cross = sxy - sx * sy / n
    explained = np.divide(cross * cross, spread, out=np.zeros_like(cross), where=spread > 1e-12)
    errors = np.maximum(syy - sy * sy / n - explained, 0.0)
    return np.concatenate([np.zeros((len(y), 1)), errors], axis=1)


def _line_ends(x: Array, y: Array, sizes: NDArray[np.int_], at: Array) -> Array:
    """Return what the lines through the first `sizes` points give at the places `at`."""
    shift = x.mean()
    x, at = x - shift, at - shift
    sx, sy, sxx, sxy = (np.cumsum(c)[sizes - 1] for c in (x, y, x * x, x * y))
    slope = (sxy - sx * sy / sizes) / (sxx - sx * sx / sizes)
    return np.asarray(sy / sizes + slope * (at - sx / sizes))


def least_points(n: int, near: int) -> int:
    """Return the fewest of n points through which a line is fitted: half of `near`, and 3 (2 on short curves)."""
    return max(3 if n >= 20 else 2, near // 2)


def best_break(x: Array, y: Array, direction: str, floor: float, near: int) -> Break | None:
    """Return the break that explains the curve best among those that fall far enough for good, if better than none.

    Args:
        x: rising steps.
        y: finite values.
        direction: which way is worse: "falling", "rising" or "auto" for either.
        floor: the least fall, between the lines, between the means of the `near` points on either side, and to the
            usual level of all later points, since a curve that recovers has dipped and not collapsed.
        near: that number of points; a line is fitted to half as many at least, and to 3 (2 on short curves).
    """
    n = len(x)
    errors = line_errors(x, y)[0]
    least = least_points(n, near)
    places = np.arange(least, n - least + 1)
    # The lines are asked half-way between the last point before the break and the first after it.
    middle = (x[places - 1] + x[places]) / 2
    lines = _line_ends(x, y, places, middle) - _line_ends(x[::-1], y[::-1], n - places, middle)
    local, around = _falls(y, places, near)
    tiny = n * (1e-6 * (np.ptp(y) or 1.0)) ** 2
    best: Break | None = None
    lowest = n * np.log((errors[0] + tiny) / n) + 2 * np.log(n)
    for sign in {"falling": (1,), "rising": (-1,), "auto": (1, -1)}[direction]:
        enough = (sign * lines >= floor) & (sign * local >= floor) & (sign * local >= STEEPER * sign * around)
        for b, fall in zip(places[enough], sign * lines[enough], strict=True):
            bic = n * np.log((errors[b] + tiny) / n) + 5 * np.log(n)
            if bic < lowest and lasts(sign * y, int(b), near, floor, start=direction == "auto"):
                best, lowest = Break(int(b), sign, float(fall)), bic
    return best


def lasts(y: Array, place: int, near: int, floor: float, *, start: bool = False) -> bool:
    """Return whether a falling curve stays lower by `floor` after a place than just before it.

    Args:
        y: the curve, worse down.
        place: the first point after the break.
        near: points whose mean is a level; the median of such means is the usual level.
        floor: the least fall.
        start: whether the usual level before the place must be higher too. Where it is not known which way is worse,
            the end of a dip would else be a collapse upwards.
    """
    after = _usual(y[place:], near)
    before = float(y[max(0, place - near) : place].mean())
    return before - after >= floor and (not start or _usual(y[:place], near) - after >= floor)


def _usual(y: Array, near: int) -> float:
    """Return the median of the means of `near` neighbouring points; of zeros and ones a plain median is 0 or 1."""
    return float(np.median(np.lib.stride_tricks.sliding_window_view(y, min(near, len(y))).mean(axis=1)))


def _falls(y: Array, places: NDArray[np.int_], near: int) -> tuple[Array, Array]:
    """Return the fall from the mean of `near` points to that of the next, at each place and on average beside it."""
    n = len(y)
    sums = np.concatenate([[0.0], np.cumsum(y)])

    def fall(start: NDArray[np.int_], middle: NDArray[np.int_], stop: NDArray[np.int_]) -> Array:
        """Return mean(start..middle) − mean(middle..stop), scaled to a distance of `near`; NaN where one is empty."""
        start, middle, stop = (np.clip(i, 0, n) for i in (start, middle, stop))
        left, right = middle - start, stop - middle
        known = (left > 0) & (right > 0)
        before = (sums[middle] - sums[start]) / np.maximum(left, 1)
        after = (sums[stop] - sums[middle]) / np.maximum(right, 1)
        return np.where(known, (before - after) * 2 * near / np.maximum(left + right, 1), np.nan)

    wide = np.minimum(near, np.minimum(places, n - places))
    here = (sums[places] - sums[places - wide]) / wide - (sums[places + wide] - sums[places]) / wide
    before = fall(places - 2 * near, places - near, places)
    after = fall(places, places + near, places + 2 * near)
    # At the curve's ends only one side is known; a decay may have been that much faster on the other.
    one = STEEPER * np.where(np.isnan(before), after, before)
    around = np.where(np.isnan(before + after), one, (before + after) / 2)
    return here, np.nan_to_num(around)
