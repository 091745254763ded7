"""Where a run falls, for claims about a model as a whole.

The paper reads the point of catastrophic forgetting off several curves together (2401.07453, §3.2 to 3.4). So a break
that `errata report` finds counts where at least two followed curves break together. A model that dies before there are
enough points for a break has fallen at the first re-test at which it answers at most half as many items as unedited.
"""

from typing import NamedTuple

import numpy as np

from errata.analysis.curves import curve, tasks
from errata.analysis.frames import RunFrames
from errata.studies.reproduce.results import Results

__all__ = ["RULE", "Fall", "fall_of"]

TOGETHER = 2
DEAD = 0.5
RULE = (
    "a collapse is a break that at least two followed curves share, or the first re-test at which at most half of the "
    "tasks' items are left"
)


class Fall(NamedTuple):
    """The edit after which a fall is first seen, and the edits among which it lies."""

    step: int
    interval: tuple[int, int]


def fall_of(results: Results, name: str) -> Fall | None:
    """Return where a run falls; None when it does not.

    Args:
        results: the finished runs.
        name: of the run.
    """
    collapse = results.verdict(name).collapse
    if collapse is not None and len(collapse.agreeing) >= TOGETHER:
        return Fall(collapse.step, collapse.interval)
    return _death(results.run(name))


def _death(run: RunFrames) -> Fall | None:
    found = [curve(run, f"downstream.{task}.item", lost=True) for task in tasks(run)]
    if not found or any(len(series) != len(found[0]) or not len(series) for series in found):
        return None
    steps = found[0].steps.astype(int)
    right = np.mean([np.nan_to_num(series.values) for series in found], axis=0)
    dead = np.flatnonzero((right <= DEAD * right[0]) & (steps > 0))
    if not len(dead) or steps[0] != 0 or right[0] == 0:
        return None
    return Fall(int(steps[dead[0]]), (int(steps[dead[0] - 1]) + 1, int(steps[dead[0]])))
