"""How many more edits fit into what the guard's limits leave."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from errata.analysis.frames import RunFrames

__all__ = ["LEAST", "Room", "measured_before", "room", "taken_back"]

LEAST = 10
"""Updates whose canary must be known before anything is said about further ones."""
_HORIZON = 1000


@dataclass(frozen=True)
class Room:
    """How many more edits fit into what the guard's limits leave, at the pace of the last ones.

    Args:
        level: the canary's KL now; NaN where the guard was off, no edit has landed, or edits were taken back.
        budget: the most that it may reach.
        more: edits until the first limit is reached; None where that is not known.
        low, high: the 95 % interval; None where, at that end of it, the canary has not been moving.
        basis: from how many edits the pace is taken.
        limit: which limit is reached first; empty where none is in sight.
        size: edits in one update.
        undone: how many edits were taken back since the canary was read.
        guarded: whether the guard was on.
    """

    level: float
    budget: float
    more: int | None
    low: int | None
    high: int | None
    basis: int
    limit: str = ""
    size: int = 1
    undone: int = 0
    guarded: bool = True

    def __str__(self) -> str:
        if self.undone:
            return f"how many more are safe is unknown: the canary was {measured_before(self.undone)}."
        if math.isnan(self.level) and self.guarded:
            return "how many more are safe is unknown: no edit has landed, so that nothing has moved the canary."
        if math.isnan(self.level):
            return "how many more are safe is unknown: the guard was off, so that no canary was watched."
        if self.basis < LEAST * self.size:
            return f"how many more are safe is unknown: too few edits ({self.basis}; {LEAST * self.size} are needed)."
        if self.low is None:
            return f"the canary has not been moving in the last {self.basis} edits: no limit is seen."
        if self.more is None:
            return f"the canary has hardly been moving: more than {self.low} further edits fit into the guard's limits."
        high = "no limit seen" if self.high is None else str(self.high)
        return (
            f"about {self.more} more edits fit into the guard's limits (95 % interval {self.low} to {high}), "
            f"extrapolated from the steps so far, the last {self.basis} edits; first to give out: {self.limit}."
        )


def taken_back(run: RunFrames) -> list[str]:
    """Return a remark where edits were taken back since a run's rows were measured."""
    if not (undone := run.journal["status"].to_list().count("undone")):
        return []
    them = "it" if undone == 1 else "them"
    return [f"Everything here was {measured_before(undone)}: it is of the model with {them}, not of the present one."]


def measured_before(undone: int) -> str:
    """Say that figures are not those of the present model."""
    return f"measured before {undone} edit{'s were' if undone > 1 else ' was'} taken back"


def room(made: Sequence[Mapping[str, Any]], guard: Mapping[str, Any], undone: int = 0) -> Room:
    """Extrapolate the canary's pace over the later half of the updates that are in the weights."""
    signals = [
        entry["signals"] for entry in made if "kl" in entry.get("signals", {}) and entry["edit"] == entry["step"]
    ]
    budget = float(guard.get("budget", math.nan))
    if undone or not signals or not guard.get("enabled"):
        return Room(math.nan, budget, None, None, None, 0, undone=undone, guarded=bool(guard.get("enabled")))
    level, size = float(signals[-1]["kl"]), made[0]["step"] - made[0]["edit"] + 1
    # What each limit has been used up, and may be: 0 on the unedited model.
    used = {"KL": ([s["kl"] for s in signals], budget)}
    if "kept" in guard:
        used["kept lines"] = ([1 - s["kept"] for s in signals], 1 - guard["kept"])
    if "perplexity" in guard:
        used["perplexity"] = ([s["perplexity"] - 1 for s in signals], guard["perplexity"] - 1)
    names = tuple(used)
    steps = np.stack([np.diff([0.0, *levels]) for levels, _ in used.values()], axis=1)
    left = np.array([max(bound - levels[-1], 0.0) for levels, bound in used.values()])
    recent = steps[len(steps) // 2 :] if len(steps) >= 2 * LEAST else steps
    basis = size * len(recent)
    if len(recent) < LEAST:
        return Room(level, budget, None, None, None, basis, size=size)
    fits = _until(recent.mean(0), left)
    low, high = _interval(recent, left, np.random.default_rng(0))
    if math.isinf(fits.min()):
        return Room(level, budget, None, _edits(low, size), None, basis, size=size)
    more = math.floor(fits.min() + 1e-6)  # sums of floats fall a hair short
    least, most = _edits(min(low, more), size), _edits(max(high, more), size)
    return Room(level, budget, size * more, least, most, basis, names[int(fits.argmin())], size)


def _edits(updates: float, size: int) -> int | None:
    return None if math.isinf(updates) else size * int(updates)


def _until(pace: NDArray[np.float64], left: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return after how many updates at a steady pace each limit is reached; infinity where nothing moves towards it."""
    return np.divide(left, pace, out=np.full_like(pace, math.inf), where=pace > 0)


def _interval(
    recent: NDArray[np.float64], left: NDArray[np.float64], rng: np.random.Generator, samples: int = 500
) -> tuple[float, float]:
    """Bound, at 95 %, how many further updates fit until the first limit is crossed.

    Each sample resamples the steps, since their own mean is uncertain, and then sums steps drawn from these until a
    limit is crossed. Beyond `_HORIZON` updates the scatter of a sum is small beside its mean, which is taken instead.

    Args:
        recent: of each update, how far it used up each limit.
        left: what is left of each.
        rng: draws the samples.
        samples: how many.
    """
    counts = np.empty(samples)
    for i in range(samples):
        steps = recent[rng.integers(len(recent), size=len(recent))]
        sums = steps[rng.integers(len(steps), size=_HORIZON)].cumsum(0)
        crossed = (sums > left + 1e-9 * np.abs(sums)).any(1)
        far = np.floor(_until(steps.mean(0), left).min())
        counts[i] = crossed.argmax() if crossed.any() else max(far, _HORIZON)
    low = np.quantile(counts, 0.025, method="lower")
    return float(low), float(np.quantile(counts, 0.975, method="higher"))
