"""Judge an update before it lands, from what is known without running the model again."""

import math
from bisect import insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["Guard", "Policy", "Sizes", "Verdict", "largest"]

Policy = Literal["continue", "stop", "rollback"]


@dataclass(frozen=True)
class Verdict:
    """What the guard found: "ok", "disabling" (far larger than its predecessors) or "nonfinite", and why."""

    status: Literal["ok", "disabling", "nonfinite"]
    reason: str = ""


class Sizes:
    """The finite sizes of earlier updates, kept in order: their median is looked up, not computed anew every edit."""

    def __init__(self, sizes: Iterable[float] = ()) -> None:
        self._ascending = sorted(x for x in sizes if math.isfinite(x))

    def __len__(self) -> int:
        return len(self._ascending)

    def add(self, size: float) -> None:
        """Take up a size, unless it is NaN or infinite."""
        if math.isfinite(size):
            insort(self._ascending, size)

    def median(self) -> float:
        """Return the middle one, or the mean of the middle two."""
        half = len(self) // 2
        return (self._ascending[half] + self._ascending[-half - 1]) / 2


@dataclass(frozen=True)
class Guard:
    """Find the updates that disable models.

    The first paper's disabling edits are four hundred times the size of normal ones (2401.07453, table 2), so an
    update is called disabling when its relative norm exceeds `spike` times the median of those before it. While fewer
    than `warm_up` updates are known, it must exceed `spike` times ‖W₀‖ itself.

    Args:
        policy: what a run does with such an update: apply it and go on, apply it and stop, or not apply it.
        spike: the ratio that makes an update disabling.
        warm_up: how many updates make a median.
    """

    policy: Policy = "continue"
    spike: float = 10.0
    warm_up: int = 10

    def judge(self, relative: Mapping[str, float], earlier: Sizes) -> Verdict:
        """Judge an update.

        Args:
            relative: ‖ΔW‖_F/‖W₀‖_F of the proposed update, per module path.
            earlier: the largest such ratio of each earlier applied update.
        """
        worst = largest(relative)
        if not all(math.isfinite(x) for x in relative.values()):
            return Verdict("nonfinite", "the update holds NaN or infinity")
        usual = earlier.median() if len(earlier) >= self.warm_up else 1.0
        if worst > self.spike * usual:
            size = f"{worst / usual:.0f} times the usual {usual:.3g}"
            if len(earlier) < self.warm_up:
                size = f"over {self.spike:g}, the bound until {self.warm_up} updates tell what is usual"
            return Verdict("disabling", f"‖ΔW‖/‖W₀‖ is {worst:.3g}, {size}")
        return Verdict("ok")


def largest(relative: Mapping[str, float]) -> float:
    """Return the largest of some sizes; NaN where one is."""
    return max(relative.values(), key=lambda x: math.inf if math.isnan(x) else x, default=0.0)
