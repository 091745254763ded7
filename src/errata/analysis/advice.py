"""What to look at first when few edits take on a model that nobody has settled a method's settings for."""

from collections import Counter
from collections.abc import Mapping
from math import inf, isnan, nan
from typing import Any

import numpy as np
import polars as pl

from errata.analysis.curves import per_edit
from errata.analysis.frames import RunFrames, journal_entries
from errata.lab.models import LAB_MODELS

__all__ = ["few_taken", "why_not"]

REACHED = 0.5
"""A wanted value that gives the object this probability was found; what is then missing is lost on the way to W."""
_AT_BOUND = 0.95
LEAST = 0.8
"""Methods that suit a model make more edits take than this."""
FEW_EDITS = 5
USUAL_TEXTS = 100_000
SHORT = 10
"""Statistics over this many times fewer texts than the published ones are called short."""


_STRENGTHS = ("covariance_weight", "identity_weight")
"""Settings against which the keys of an edit are weighed: the smaller, the more of the wanted change it gets."""


def why_not(diagnostics: Mapping[str, float], method: Mapping[str, Any], probability: float) -> str:
    """Say why an applied edit did not take, as far as what was seen while computing it tells; "" where it does not.

    Args:
        diagnostics: of the edit, from the journal.
        method: the method's settings, every one written out.
        probability: of the object under the edited weights; NaN where that was not measured.
    """
    value, reached = method.get("value"), diagnostics.get("target_probability", nan)
    if not isinstance(value, Mapping) or isnan(reached):
        if "loss" in diagnostics and "steps" in method:
            ended = f"its training ended at a loss of {diagnostics['loss']:.2g} after at most {method['steps']} steps"
            return f"{ended}: more of them (method.steps), or a higher rate (method.lr)"
        return ""
    if reached >= REACHED:
        now = "" if isnan(probability) else f", but the edited weights give {probability:.2g}"
        return f"the wanted value reached P {reached:.2f}{now}: the strength is at fault, not the layers{_dose(method)}"
    bound = float(value["clamp_norm_factor"])
    if diagnostics.get("residual_norm", 0.0) >= _AT_BOUND * bound * diagnostics.get("initial_norm", inf):
        return (
            f"the value bound is too tight: within it the object reached P {reached:.2g} "
            f"(raise method.value.clamp_norm_factor, which is {bound:g})"
        )
    return (
        f"the wanted value reached only P {reached:.2g} in {value['steps']} steps: more of them "
        f"(method.value.steps), or larger ones (method.value.lr, which is {value['lr']:g})"
    )


def _dose(method: Mapping[str, Any]) -> str:
    """Say which setting gives an edit more of the change that it wants; "" where a method has none."""
    strength = next((name for name in _STRENGTHS if method.get(name)), None)
    if strength is None:
        return ""
    if method[strength] == "auto":  # found from the share of it that an edit is to get
        return f" (raise method.realised, which is {method['realised']:g})"
    return f" (lower method.{strength}, which is {method[strength]:g})"


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
    causes = _causes(run)
    looks = [*causes, *([] if causes else _places(config["method"], name)), *_statistics(config["method"])]
    looks.append("settings: errata models FAMILY says for which models a method's are published; others get defaults")
    return [f"Only {taken.mean():.0%} of {len(taken)} edits took with {run.method}. Look at " + "; ".join(looks) + "."]


def _causes(run: RunFrames) -> list[str]:
    """Return why the edits that did not take did not, where most have one kind of cause; the first one's figures."""
    rows = run.metric("efficacy.success@now").filter(pl.col("value") == 0.0)
    failed = set(rows["edit_id"].to_list())
    entries = [e for e in journal_entries(run.path / "journal.jsonl") if e["id"] in failed]
    found = [why_not(e.get("diagnostics", {}), run.info["config"]["method"], nan) for e in entries]
    kinds = Counter(cause.partition(":")[2].partition("(")[0] or cause[:20] for cause in found if cause)
    if not kinds or kinds.most_common(1)[0][1] * 2 <= len(found):
        return []
    kind = kinds.most_common(1)[0][0]
    return [next(cause for cause in found if kind in cause)]


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
