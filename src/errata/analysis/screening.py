"""Read a screening: one row a fact, what its edit did as the first of a clean model, and which facts disable."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from errata.analysis.frames import ROW_COLUMNS
from errata.analysis.intervals import wilson
from errata.analysis.phases import FLOOR
from errata.errors import RunError

__all__ = ["KNOWN", "OUTSIZED", "RULE", "SIZE_RULE", "Screening", "Share", "load_screening"]

OUTSIZED = 10.0
"""The guard's ratio (`Guard.spike`): an update so many times the usual size is outsized."""
NATS = 10.0 * FLOOR
"""The detector's floor for the logarithm of perplexity: a factor of e² = 7.4."""
KNOWN = "known."
"""What begins the names of columns that are known before an edit is applied."""
RULE = (
    f"An edit disables the model when everything that was measured breaks by the floors of the collapse detector: "
    f"unrelated facts fall by {FLOOR * 100:.0f} points or more and perplexity rises to {math.exp(NATS):.1f} times or "
    f"more, or becomes NaN; it damages the model when one of them does."
)
SIZE_RULE = (
    f"Its update is outsized, the guard's rule, when ‖ΔW‖/‖W₀‖ is more than {OUTSIZED:.0f} times the median of all "
    f"facts screened, or not finite."
)
_WORDS = {0: "ordinary", 1: "damaging", 2: "disabling"}


@dataclass(frozen=True)
class Share:
    """How many facts have a verdict, of how many, with Wilson's 95 % interval of their share."""

    count: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """The interval; NaN where there is no fact."""
        return wilson(self.count, self.of)

    def __str__(self) -> str:
        low, high = self.interval
        share = 100 * self.count / self.of if self.of else math.nan
        return f"{self.count} of {self.of} ({share:.1f} %, 95 % interval {100 * low:.1f}–{100 * high:.1f} %)"


@dataclass(frozen=True)
class Screening:
    """A screening, read.

    Args:
        path: its directory.
        info: what `screen.json` holds.
        facts: the facts in their order.
        frame: one row a fact, the most disturbing first: rank, number, id, subject, prompt, target_new, status, verdict
            (ordinary, damaging, disabling; failed where none was proposed), damage and worst (the least and the most of
            its breaks, in floors), outsized, relative, norm, distance (‖ΔW‖_F / numel), the figures after the edit
            (unrelated, perplexity, entropy, efficacy), and `known.*`, what was known before it was applied.
        before: the same figures of the unedited model.
    """

    path: Path
    info: Mapping[str, Any]
    facts: tuple[Mapping[str, Any], ...]
    frame: pl.DataFrame
    before: Mapping[str, float]

    @property
    def method(self) -> str:
        """The editing method's name."""
        return str(self.info["config"]["method"]["name"])

    @property
    def measured(self) -> bool:
        """Whether the model was asked anything; else the size of the update decides every verdict."""
        return not all(math.isnan(self.before[name]) for name in ("unrelated", "perplexity"))

    @property
    def judged(self) -> pl.DataFrame:
        """The facts whose edit was made; what the editor could not propose is in no share."""
        return self.frame.filter(pl.col("verdict") != "failed")

    def share(self, verdict: str) -> Share:
        """Return how many facts have a verdict: disabling, damaging (disabling ones included) or outsized."""
        chosen = {
            "disabling": pl.col("verdict") == "disabling",
            "damaging": pl.col("verdict").is_in(["damaging", "disabling"]),
            "outsized": pl.col("outsized"),
        }[verdict]
        return Share(len(self.judged.filter(chosen)), len(self.judged))

    def known(self) -> list[str]:
        """Return the columns that were known before the edits were applied."""
        return [name for name in self.frame.columns if name.startswith(KNOWN)]


def load_screening(path: Path) -> Screening:
    """Read a screening's directory, finished or not.

    Raises:
        RunError: when it is no such directory, or holds no fact yet.
    """
    file = path / "screen.json"
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
        lines = (path / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as e:
        raise RunError(
            f"{path} holds no screening: it has no {Path(str(e.filename)).name}. Make one: errata screen."
        ) from e
    except ValueError as e:
        raise RunError(f"{file} is damaged: {e}") from e
    parts = sorted((path / "probes" / "screen").glob("part-*.parquet"))
    if len(parts) < 2:
        raise RunError(f"{path} holds no screened fact yet. Go on with the command that began it.")
    rows = pl.concat([pl.read_parquet(part).cast(ROW_COLUMNS) for part in parts])
    facts = tuple(json.loads(line) for line in lines)
    figures = _figures(rows)
    before = figures.filter(pl.col("number") == 0).select("unrelated", "perplexity", "entropy").row(0, named=True)
    base = {name: math.nan if value is None else float(value) for name, value in before.items()}
    return Screening(path, info, facts, _ranked(figures.filter(pl.col("number") > 0), facts, base), base)


def _figures(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row a step: the mean of each metric that is a mean, the largest of those that stand a module."""

    def of(metric: str) -> pl.Expr:
        return pl.col("value").filter(pl.col("metric") == metric)

    known = sorted(m for m in rows["metric"].unique() if m.startswith(KNOWN))
    return (
        rows.group_by(pl.col("step").cast(pl.Int64).alias("number"))
        .agg(
            # By its size alone the guard calls an update disabling; here that word is for what it did to the model.
            pl.col("text")
            .filter(pl.col("metric") == "update.relative")
            .first()
            .replace("disabling", "outsized")
            .alias("status"),
            pl.col("text").filter(pl.col("metric") == "update.remark").first().alias("remark"),
            of("update.relative").first().alias("relative"),
            of("update.norm").max().alias("norm"),
            of("drift.mean_abs").max().alias("distance"),
            of("unrelated.exact").mean().alias("unrelated"),
            of("perplexity").first().alias("perplexity"),
            of("entropy").mean().alias("entropy"),
            of("efficacy.success@now").drop_nans().mean().alias("efficacy"),
            *(of(name).first().alias(name) for name in known),
        )
        .sort("number")
    )


def _ranked(figures: pl.DataFrame, facts: Sequence[Mapping[str, Any]], before: Mapping[str, float]) -> pl.DataFrame:
    """Judge every fact and order them, the most disturbing first."""
    breaks = [_breaks(row, before) for row in figures.iter_rows(named=True)]
    applied = figures["status"].is_in(["applied", "outsized", "nonfinite"]).to_list()
    sizes = figures["relative"].to_numpy()[applied]
    usual = float(np.median(sizes[np.isfinite(sizes)])) if np.isfinite(sizes).any() else math.nan
    outsized = [made and not size <= OUTSIZED * usual for made, size in zip(applied, figures["relative"], strict=True)]
    verdicts = []
    for made, broken, large in zip(applied, breaks, outsized, strict=True):
        reached = [value >= 1 for value in broken]
        # Where nothing of the model was asked, the size of the update is all there is to judge by.
        grade = (2 * large) if not reached else (2 if all(reached) else int(any(reached)))
        verdicts.append(_WORDS[grade] if made else "failed")
    named = figures.with_columns(
        pl.Series("verdict", verdicts),
        pl.Series("damage", [min(b, default=math.nan) for b in breaks], pl.Float64),
        pl.Series("worst", [max(b, default=math.nan) for b in breaks], pl.Float64),
        pl.Series("outsized", outsized, pl.Boolean),
        *(
            pl.Series(key, [str(facts[n - 1].get(key, "")) for n in figures["number"]], pl.String)
            for key in ("id", "subject", "prompt", "target_new")
        ),
    )
    # Once a model is dead, more is no different: the larger update first.
    order = [pl.col(c).fill_nan(math.inf).fill_null(-math.inf) for c in ("damage", "worst", "relative")]
    ordered = named.sort([pl.col("verdict") == "failed", *(-c for c in order), "number"])
    front = ["rank", "number", "id", "subject", "prompt", "target_new", "status", "verdict", "damage", "worst"]
    ranked = ordered.with_row_index("rank", 1).with_columns(pl.col("rank").cast(pl.Int64))
    return ranked.select(*front, pl.exclude(front))


def _breaks(row: Mapping[str, Any], before: Mapping[str, float]) -> list[float]:
    """Return by how many floors each measured ability fell; a figure that became NaN or infinite fell without end."""
    found = []
    if not math.isnan(before["unrelated"]) and row["unrelated"] is not None:
        found.append(_endless((before["unrelated"] - row["unrelated"]) / FLOOR))
    if not math.isnan(before["perplexity"]) and row["perplexity"] is not None:
        found.append(_endless(math.log(row["perplexity"] / before["perplexity"]) / NATS))
    return found


def _endless(value: float) -> float:
    return math.inf if math.isnan(value) else value
