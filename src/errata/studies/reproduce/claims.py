"""A paper's claims, and what is found of them: a figure with its interval, of which a stated rule makes the verdict."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from errata.report.words import DASH

if TYPE_CHECKING:
    from errata.studies.reproduce.results import Results

__all__ = [
    "DOES_NOT",
    "HOLDS",
    "NOT_MADE",
    "NOT_TESTABLE",
    "Claim",
    "Finding",
    "Ruling",
    "compared",
    "not_made",
    "untestable",
]

Ruling = Literal["holds", "does not hold", "not testable here", "not made"]
HOLDS: Ruling = "holds"
DOES_NOT: Ruling = "does not hold"
NOT_TESTABLE: Ruling = "not testable here"
NOT_MADE: Ruling = "not made"


@dataclass(frozen=True)
class Finding:
    """What was measured of a claim.

    Args:
        value: the figure; NaN where there is none.
        low: the lower bound of its interval.
        high: the upper bound.
        text: how it is written.
        verdict: what the claim's rule makes of the interval.
        note: the rule, and what else a reader must know.
    """

    value: float
    low: float
    high: float
    text: str
    verdict: Ruling
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the finding with null for what is not finite."""
        fields = asdict(self).items()
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields}


@dataclass(frozen=True)
class Claim:
    """One claim of a paper.

    Args:
        id: names the row; `errata reproduce PAPER --claim ID` makes it alone.
        section: under which heading it stands.
        sentence: what the paper claims, in one sentence.
        paper: its figure and where it stands.
        measure: finds ours among the results; called only when all runs that it needs are finished.
        needs: patterns (as of files) of the runs' and screens' names that it reads, such as "rome/*"; empty for a
            claim that nothing here can test.
        rows: the metrics that it reads, so that every figure can be traced.
        cell: row and column of the paper's own table that it stands in, if it does.
        counted: whether the tally counts it: not where the paper has no figure, nor a second form of a method or model.
    """

    id: str
    section: str
    sentence: str
    paper: str
    measure: "Callable[[Results], Finding]"
    needs: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    cell: tuple[str, str] | None = None
    counted: bool = True


def compared(
    value: float,
    low: float,
    high: float,
    text: str,
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    rule: str = "",
) -> Finding:
    """Rule on a figure that a claim says lies in [at_least, at_most].

    The claim holds when the whole interval lies there, does not hold when none of it does, and is not testable here
    when the interval reaches over a bound, or when there is no interval.

    Args:
        value: the figure.
        low: the lower bound of its interval.
        high: the upper bound.
        text: how it is written.
        at_least: the least value that agrees with the claim.
        at_most: the largest.
        rule: the bounds in words.

    Example:
        >>> compared(0.9, 0.8, 1.0, "90 %", at_least=0.75).verdict
        'holds'
        >>> compared(0.9, 0.7, 1.0, "90 %", at_least=0.75).verdict
        'not testable here'
    """
    if math.isnan(low) or math.isnan(high):
        why = "there is no interval"
        return Finding(value, low, high, text, NOT_TESTABLE, f"{rule}; {why}" if rule else why)
    if at_least <= low and high <= at_most:
        return Finding(value, low, high, text, HOLDS, rule)
    if high < at_least or low > at_most:
        return Finding(value, low, high, text, DOES_NOT, rule)
    why = "the interval reaches over the bound"
    return Finding(value, low, high, text, NOT_TESTABLE, f"{rule}; {why}" if rule else why)


def untestable(why: str, text: str = DASH) -> Finding:
    """Say that a claim cannot be tested here, and why; what was seen all the same is the text."""
    return Finding(math.nan, math.nan, math.nan, text, NOT_TESTABLE, why)


def not_made(missing: Sequence[str]) -> Finding:
    """Say that the runs which a claim needs were not made, or failed."""
    why = f"not there: {', '.join(missing)}" if missing else "there are no such runs of this model"
    return Finding(math.nan, math.nan, math.nan, DASH, NOT_MADE, why)
