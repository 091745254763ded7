"""What to look at first when few edits take on a model that nobody has settled a method's settings for."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from errata.analysis.curves import per_edit
from errata.analysis.frames import RunFrames
from errata.lab.models import LAB_MODELS

__all__ = ["few_taken"]

LEAST = 0.8
"""Methods that suit a model make more edits take than this."""
FEW_EDITS = 5
USUAL_TEXTS = 100_000
SHORT = 10
"""Statistics over this many times fewer texts than the published ones are called short."""


def few_taken(run: RunFrames) -> list[str]:
    """Return a remark with what to look at, where fewer than `LEAST` of a run's edits took right after being made.

    Lab models bring settings of their own, so that a method that does little there does little: nothing is said.

    Args:
        run: the run, of at least a few edits.
    """
    taken = per_edit(run, "efficacy.success@now").values
    taken = taken[~np.isnan(taken)]
    config = run.info["config"]
    name = str(config["model"]["name"])
    if len(taken) < FEW_EDITS or taken.mean() >= LEAST or name in LAB_MODELS:
        return []
    looks = [*_places(config["method"], name), *_statistics(config["method"])]
    looks.append("settings: errata models FAMILY says for which models a method's are published; others get defaults")
    return [f"Only {taken.mean():.0%} of {len(taken)} edits took with {run.method}. Look at " + "; ".join(looks) + "."]


def _places(method: Mapping[str, Any], model: str) -> list[str]:
    """Say where the edits were made."""
    chosen = method.get("layers", method.get("layer"))
    if chosen is None:
        return []
    several = isinstance(chosen, list | tuple)
    where = f"the layer{'s' if several else ''} {', '.join(map(str, chosen)) if several else chosen}"
    return [f"{where}, which may not be where the model keeps facts (errata trace --model {model} --facts FILE)"]


def _statistics(method: Mapping[str, Any]) -> list[str]:
    """Say how much text the covariance comes from, where it is little."""
    statistics = method.get("statistics")
    if not isinstance(statistics, Mapping) or ("covariance_weight" not in method and "ridge" not in method):
        return []
    samples = int(statistics.get("samples", USUAL_TEXTS))
    if samples * SHORT > USUAL_TEXTS:
        return []
    return [f"C, estimated from {samples:,} texts where {USUAL_TEXTS:,} are usual (method.statistics.samples)"]
