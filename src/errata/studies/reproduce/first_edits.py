"""How claims about single edits are measured: every fact as the first edit of the clean model, from a screen's rows."""

import math

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.screening import RULE, Share
from errata.report.words import number, share
from errata.studies.reproduce.claims import DOES_NOT, HOLDS, Finding, compared, untestable
from errata.studies.reproduce.measures import Measure
from errata.studies.reproduce.results import Results

__all__ = ["disabling", "distance_ratio"]

RESAMPLES = 1000


def disabling(kind: str, *, expected: bool) -> Measure:
    """Measure how many facts disable the model as its first edit; one is enough for there to be such facts.

    Args:
        kind: of edits; the screen `first/KIND`.
        expected: whether the claim is that there are some.
    """

    def measure(results: Results) -> Finding:
        found: Share = results.screening(f"first/{kind}").share("disabling")
        low, high = found.interval
        text = f"{found.count} of {found.of} facts ({share(low)}–{share(high)})"
        agrees = bool(found.count) == expected
        rule = "holds when there is one at least" if expected else "holds when there is none among those screened"
        value = found.count / found.of if found.of else math.nan
        if not found.of:
            return untestable("no edit could be proposed")
        return Finding(value, low, high, text, HOLDS if agrees else DOES_NOT, f"{rule}. {RULE}")

    return measure


def distance_ratio(kind: str, *, at_least: float, rule: str) -> Measure:
    """Measure how many times further the edits that disable move the weights than the others, by their means.

    Where none disables, the furthest edit is held against the mean of the others. The interval is the percentiles' of
    facts resampled; of a single furthest edit it cannot reach above what was seen.
    """

    def measure(results: Results) -> Finding:
        facts = results.screening(f"first/{kind}").judged.filter(pl.col("distance").is_finite())
        far = (facts["verdict"] == "disabling").to_numpy()
        distances = facts["distance"].to_numpy()
        if len(distances) < 3:
            return untestable("fewer than three edits have a distance")
        which = "disabling edits"
        if not far.any():
            far, which = distances == distances.max(), "no edit disables; the furthest"
        value = _ratio(distances, far)
        rng = results.rng()
        drawn = rng.integers(0, len(distances), (RESAMPLES, len(distances)))
        ratios = np.array([_ratio(distances[i], far[i]) for i in drawn if far[i].any() and not far[i].all()])
        low, high = np.quantile(ratios, [0.025, 0.975])
        usual = float(distances[~far].mean())
        moved = f"{number(float(distances[far].mean()))} against {number(usual)}"
        text = f"{number(value)} times ({number(float(low))}–{number(float(high))}); {which}: {moved}"
        return compared(value, float(low), float(high), text, at_least=at_least, rule=rule)

    return measure


def _ratio(distances: NDArray[np.float64], far: NDArray[np.bool_]) -> float:
    return float(distances[far].mean() / distances[~far].mean())
