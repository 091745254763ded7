"""The first paper's Table 3 for every method: what each edit did when made, and how many are forgotten."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from errata.analysis.forgetting import retests
from errata.analysis.frames import RunFrames
from errata.analysis.shared import fact_names, ids_of
from errata.studies.questions.question import Table
from errata.studies.questions.shares import named, pooled
from errata.studies.reproduce.estimates import Estimate

__all__ = ["METRICS", "table3"]

METRICS = ("efficacy.success@now", "paraphrase.success@now", "neighborhood.success@now")
_OF_THE_EDIT = METRICS[:2]
"""An edit for which a method had nothing to propose is not tested: it did not succeed; nobody asked its neighbors."""
_COLUMNS = ("efficacy", "paraphrase", "locality", "locality at first", "forgotten")


def table3(found: Mapping[str, Sequence[tuple[RunFrames, int]]], seed: int) -> Table:
    """Lay out efficacy, paraphrase, locality and forgetting of methods, each with its interval.

    Args:
        found: of every method its runs, each with the last step that counts.
        seed: of the resamples.
    """
    rows, values = [], []
    common = min((upto for runs in found.values() for _, upto in runs), default=0)
    for method, runs in found.items():
        figures = [_when_made(runs, metric, seed) for metric in METRICS]
        figures += [_when_made([(run, common) for run, _ in runs], METRICS[-1], seed), _forgotten(runs, seed)]
        rows.append([method, *(f.text for f in figures), f"{sum(upto for _, upto in runs):,}"])
        values.append({"method": method, **{c: list(f) for c, f in zip(_COLUMNS, figures, strict=True)}})
    note = (
        "The first paper's Table 3 for every method, in the order of the table above: success right after each edit "
        "(the new object more probable than the true one; of neighbors the other way round) over all edits up to the "
        f"fall, or where the comparison ends. Locality at first is that of the first {common} edits, which every "
        "method makes; some neighbors ask for a fact that the run itself has edited by then. Forgotten, of the edits "
        "that were exact when made, at the last re-test that counts. 95 % intervals over draws and facts, those of one "
        "person taken as independent; an edit for which a method had nothing to propose counts as failed, and not "
        "among the neighbors. Methods are followed over different numbers of edits (the last column, all draws "
        "together)."
    )
    return Table(["method", *_COLUMNS, "edits"], rows, values, note)


def _when_made(runs: Sequence[tuple[RunFrames, int]], metric: str, seed: int) -> Estimate:
    groups = []
    for run, upto in runs:
        answers = named(run, run.metric(metric).filter(pl.col("step") <= upto))
        if metric in _OF_THE_EDIT:
            names = fact_names(run)
            asked = run.journal.filter(pl.col("edit") <= upto).select(pl.col("id").replace_strict(names).alias("fact"))
            answers = asked.join(answers, on="fact", how="left", maintain_order="left").fill_null(0.0)
        groups.append(answers)
    return pooled(groups, np.random.default_rng(seed))


def _forgotten(runs: Sequence[tuple[RunFrames, int]], seed: int) -> Estimate:
    groups = []
    for run, upto in runs:
        tests = retests(run).filter(pl.col("step") <= upto)
        last = tests.filter(pl.col("step") == pl.col("step").max())
        names = fact_names(run)
        facts = {"fact": [names[i] for i in ids_of(run, last["edit"])], "value": last["forgotten"].cast(pl.Float64)}
        groups.append(pl.DataFrame(facts, schema={"fact": pl.String, "value": pl.Float64}))
    return pooled(groups, np.random.default_rng(seed))
