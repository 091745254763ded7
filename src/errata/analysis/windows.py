"""Smooth per-edit series as the first paper draws them: buckets of 5 edits, and the moving average of 10 buckets."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["BUCKET", "WINDOW", "bucket", "moving_average"]

BUCKET = 5
"""Edits in a bucket: the first paper's dotted lines (2401.07453, figure 1)."""
WINDOW = 50
"""Edits in the moving average, ten buckets: its solid lines."""

Array = NDArray[np.float64]


def bucket(steps: Array, values: Array, size: int = BUCKET) -> tuple[Array, Array]:
    """Average consecutive groups of `size` edits; each stands at its last edit.

    A last, incomplete group is kept, so that a collapse in the final edits is not cut off.

    Args:
        steps: the edits' numbers, rising.
        values: one figure an edit; NaN makes its whole group NaN, as a dead model shall be seen.
        size: edits in a group.
    """
    if not len(steps):
        return steps, values
    starts = np.arange(0, len(steps), size)
    counts = np.diff(np.append(starts, len(steps)))
    ends = np.append(starts[1:], len(steps)) - 1
    return steps[ends], np.add.reduceat(values, starts) / counts


def moving_average(values: Array, ends: NDArray[np.intp], size: int = WINDOW) -> Array:
    """Average the last `size` edits at some places; the first places average over what there is.

    Args:
        values: one figure an edit.
        ends: how many edits there are up to each place.
        size: edits in a mean.
    """
    return np.array([values[max(0, end - size) : end].mean() for end in ends])
