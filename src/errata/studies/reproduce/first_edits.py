"""How claims about single edits are measured: every fact as the first edit of the clean model, from a screen's rows."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.intervals import paired_difference
from errata.analysis.screening import RULE, Share
from errata.report.words import bounded, number, share
from errata.studies.reproduce.claims import DOES_NOT, HOLDS, NOT_TESTABLE, Finding, compared, untestable
from errata.studies.reproduce.measures import Measure
from errata.studies.reproduce.results import Results

__all__ = ["disables_more", "disabling", "distance_ratio"]

RESAMPLES = 1000
FEWEST = 6
"""Disabling edits below which resampling says nothing of how far they go."""
RARE = 1 / 500
"""The paper meets its first disabling edit of ROME after 455 edits in the mean (560, 980, 80, 200; Figs. 13 to 16)."""


def disabling(kind: str, *, expected: bool) -> Measure:
    """Measure how many facts disable the model as its first edit.

    One is enough for there to be such facts. None among those screened says that there are none only where Wilson's
    upper bound lies below RARE.

    Args:
        kind: of edits; the screen `first/KIND`.
        expected: whether the claim is that there are some.
    """

    def measure(results: Results) -> Finding:
        found: Share = results.screening(f"first/{kind}").share("disabling")
        low, high = found.interval
        text = f"{found.count} of {found.of} facts ({share(low)}–{share(high)})"
        if not found.of:
            return untestable("no edit could be proposed")
        rule = f"there are some when one is found, none when the upper bound lies below 1 in {1 / RARE:.0f}. {RULE}"
        value = found.count / found.of
        if not found.count and high >= RARE:
            return Finding(value, low, high, text, NOT_TESTABLE, rule)
        return Finding(value, low, high, text, HOLDS if bool(found.count) == expected else DOES_NOT, rule)

    return measure


def disables_more(kind: str, other: str, *, rule: str) -> Measure:
    """Measure how many more of the same facts disable the model with one kind than with another.

    Args:
        kind: of edits; the screen `first/KIND`.
        other: the kind that is claimed to disable less.
        rule: the bounds in words.
    """

    def measure(results: Results) -> Finding:
        both = results.screening(f"first/{kind}").judged.join(
            results.screening(f"first/{other}").judged, on="id", suffix="_other"
        )
        if not len(both):
            return untestable("no fact was edited with both")
        first, second = ((both[c] == "disabling").cast(pl.Float64).to_numpy() for c in ("verdict", "verdict_other"))
        value, (low, high) = float(first.mean() - second.mean()), paired_difference(first, second)
        told = f"{first.sum():.0f} against {second.sum():.0f} of the same {len(both)} facts"
        shown = bounded(value, low, high).replace(" %", " points", 1)
        return compared(value, low, high, f"{told}: {shown}", at_least=np.nextafter(0, 1), rule=rule)

    return measure


def distance_ratio(kind: str, *, at_least: float, rule: str) -> Measure:
    """Measure how many times further the edits that disable move the weights than the others, by their means.

    The interval is the percentiles' of facts resampled. Where none disables, the claim is about nothing that is here;
    how far the furthest goes is told all the same.
    """

    def measure(results: Results) -> Finding:
        facts = results.screening(f"first/{kind}").judged.filter(pl.col("distance").is_finite())
        far = (facts["verdict"] == "disabling").to_numpy()
        distances = facts["distance"].to_numpy()
        if len(distances) < 3:
            return untestable("fewer than three edits have a distance")
        if not far.any():
            most = float(distances.max() / np.delete(distances, distances.argmax()).mean())
            return untestable("no edit disables", f"the furthest of {len(distances)} edits {number(most)} times")
        if far.sum() < FEWEST or far.all():
            return untestable(f"{rule}; {far.sum()} of {len(far)} edits disable, and {FEWEST} are needed")
        value = _ratio(distances, far)
        rng = results.rng()
        drawn = rng.integers(0, len(distances), (RESAMPLES, len(distances)))
        ratios = np.array([_ratio(distances[i], far[i]) for i in drawn if far[i].any() and not far[i].all()])
        low, high = np.quantile(ratios, [0.025, 0.975])
        usual = float(distances[~far].mean())
        moved = f"{number(float(distances[far].mean()))} against {number(usual)}"
        text = f"{number(value)} times ({number(float(low))}–{number(float(high))}): {moved}"
        return compared(value, float(low), float(high), text, at_least=at_least, rule=rule)

    return measure


def _ratio(distances: NDArray[np.float64], far: NDArray[np.bool_]) -> float:
    return float(distances[far].mean() / distances[~far].mean())
