"""What do edits bleed into?"""

import math
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from errata.analysis.bleeding import KINDS, bled
from errata.lab.models import load_world
from errata.report.question_charts import Axis, below, ranges
from errata.report.words import DASH
from errata.studies.questions.question import Answer, Question, Table
from errata.studies.questions.recipes import FORMS, recipe
from errata.studies.questions.shares import pooled
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Size, Work
from errata.studies.streams import half, orders_of, section

__all__ = ["QUESTION"]

EARLY = 10
"""Edits after which the model is first looked at; and at the end."""
ALL = 10_000
"""More facts than a world has: what is asked after an edit is asked before it too."""


def work(size: Size, out: Path) -> Work:
    """List the runs: edits of half of the relations, so that facts remain that share nothing with any edit."""
    n = size.edits or 0
    probes = [
        {"name": "proficiency", "at_start": False, "at_end": False},
        {"name": "unrelated", "every": n, "also_at": [s for s in (5, 10, 20, 30, 40, 50) if s < n], "n": ALL},
    ]
    runs = {
        f"half/{form}/{k}": recipe(size.model, method, section("half", k, n, out), probes, f"half-{form}-{k}", k)
        for k in range(size.samples)
        for form, method in FORMS.items()
    }
    return Work(runs, files=orders_of({"half": half}, size))


def about(size: Size) -> str:
    """Say what is run."""
    world = load_world(size.model)
    relations, others = len(world.relations), len(world.people) - (size.edits or 0)
    return (
        f"{size.edits} edits, one at a time, of as many people and of {relations // 2} of the {relations} relations, "
        f"in {size.samples} draws; asked for are the {others * relations} facts of the {others} people whom a draw "
        "does not edit, and all facts of the edited people but those of the relations of which they are edited."
    )


def answer(results: Results) -> Answer:
    """Compare facts that nobody edited by what they have in common with an edit."""
    rows: list[list[str]] = []
    values: list[dict[str, object]] = []
    points: dict[int, list[dict[str, object]]] = {}
    for form in FORMS:
        runs = [results.run(name) for name in results.names(f"half/{form}/*")]
        if not runs:
            continue
        found = [bled(run, _known(str(run.info["config"]["model"]["name"]))) for run in runs]
        end = max(found[0]["step"])
        for kind in KINDS:
            cells: list[str] = []
            entry: dict[str, object] = {"method": form, "kind": kind}
            for step in (EARLY, end):
                parts = [f.filter((pl.col("step") == step) & (pl.col("kind") == kind)) for f in found]
                facts = [p.select(pl.col("prompt_id").alias("fact"), pl.col("kept").alias("value")) for p in parts]
                kept = pooled(facts, results.rng())
                change = _median(pl.concat(parts)["change"].drop_nans().to_numpy())
                there = math.isfinite(kept.value)
                cells += [kept.text if there else DASH, f"{change:+.2f}" if math.isfinite(change) else DASH]
                entry |= {
                    f"kept at {step}": list(kept),
                    f"change at {step}": change,
                    f"n at {step}": sum(map(len, parts)),
                }
                point = {"group": kind, "series": form, "value": kept.value, "low": kept.low, "high": kept.high}
                points.setdefault(step, []).append(point)
            rows.append([form, kind, *cells])
            values.append(entry)
    first, last = points
    columns = ["method", "in common with the edits", f"still right after {first} edits", "change, nats"]
    columns += [f"still right after {last} edits", "change, nats"]
    note = (
        "Of the facts that were right before any edit. A fact counts for the first kind that fits; – where none is of "
        "that kind. Change: median, over facts, of that of the mean log-probability of the true object's tokens "
        "against the unedited model. 95 % intervals over draws and facts."
    )
    frames = [pl.DataFrame(points[step]).filter(pl.col("value").is_finite()) for step in (first, last)]
    drawn = [
        ranges(f, Axis(f"still right after {step} edits", share=True))
        for f, step in zip(frames, (first, last), strict=True)
    ]
    caption = f"Facts that nobody edited and are still right, after {first} edits (above) and {last} (below)"
    metrics = ("unrelated.exact", "same_subject.exact")
    return Answer([Table(columns, rows, values, note)], below(*drawn), caption, metrics)


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else math.nan


def _known(model: str) -> pl.DataFrame:
    rows = [
        (prompt.replace("{}", fact.subject), fact.subject, fact.relation, fact.object)
        for fact in load_world(model).facts()
        for prompt in fact.prompts
    ]
    return pl.DataFrame(rows, schema=["prompt_id", "subject", "relation", "object"], orient="row")


QUESTION = Question(
    name="bleeding",
    title="What do edits bleed into?",
    work=work,
    about=about,
    answer=answer,
    samples=2,
    edits=60,
    least_edits=EARLY + 1,
)
