"""Which editor goes furthest before unrelated facts drop by 5 %?"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from errata.analysis.differences import units
from errata.analysis.falls import Reach, fall_step, reach
from errata.analysis.frames import RunFrames
from errata.analysis.shared import fact_names
from errata.editors.registry import editors
from errata.report.question_charts import Axis, ranges
from errata.report.words import number
from errata.studies.questions.making import Fall, fell, make_until
from errata.studies.questions.question import Answer, Question, Table
from errata.studies.questions.recipes import recipe
from errata.studies.questions.shares import pooled
from errata.studies.questions.table3 import METRICS, table3
from errata.studies.recipe import Recipe
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Size, Training, Work
from errata.studies.streams import long, orders_of, section

__all__ = ["OUT", "QUESTION", "made_and_kept"]

FALL = Fall("unrelated.exact", 0.05)
EVERY = 20
"""Edits between re-tests."""
OUT = {
    "mello": "answers by a dialogue that does not fit the lab's 256 positions",
    "ike": "reads demonstrations in the prompt, which the lab models were not trained to follow",
    "scr": "reads the fact in the prompt, which the lab models were not trained to follow",
}
"""Methods that are left out, and why."""
LEVEL = 0.95
_EMPTY = 1000
"""Bytes of a file that holds no tensor, at most."""
_SKIP = 360
"""Facts of the first draw that the trained methods' networks are not trained on: its first three rounds."""


def work(size: Size, out: Path) -> Work:
    """List the runs: every method over several draws of all facts but the kept people's."""
    probes = [
        {"name": "proficiency", "at_start": False, "at_end": False},
        {"name": "unrelated", "every": EVERY, "n": 160},
        {"name": "forgetting", "every": EVERY},
    ]
    methods = {name: cls for name, cls in editors().items() if name not in OUT}
    trained = [name for name, cls in methods.items() if "checkpoint" in cls.Settings.model_fields]
    runs: dict[str, Recipe] = {}
    for k in range(size.samples):
        edits = section("long", k, len(long(size.model, k)), out)
        for name in methods:
            method = {"name": name} | ({"checkpoint": str(out / "trained" / name)} if name in trained else {})
            runs[f"furthest/{name}/{k}"] = recipe(size.model, method, edits, probes, f"{name}-{k}", k, 100)
    trainings = {name: Training(name, size.model, skip=_SKIP) for name in trained}
    return Work(runs, trainings, files=orders_of({"long": long}, size))


def about(size: Size) -> str:
    """Say what is run."""
    left_out = "; ".join(f"{name}, which {why}" for name, why in OUT.items())
    return (
        f"Every method with the lab's settings, one fact at a time, over {size.samples} draws of facts, each in an "
        "order of its own: 100 people once, then the same people with another relation, and so on. A run ends when, at "
        f"a re-test after every {EVERY}th edit, at least {FALL.share:.0%} of 160 facts about 20 people whom no run "
        f"edits are no longer right, or after {size.edits} edits. Left out: {left_out}. MEND, KE and SERAC were "
        f"trained on the facts of the first draw but its first {_SKIP}; what the runs edit overlaps with them, which "
        "can only help."
    )


def answer(results: Results) -> Answer:
    """Rank the methods by the median of the step at which they fall."""
    times = {name: fall_step(results.run(name), FALL.metric, FALL.share) for name in results.names("furthest/*")}
    # What falls where not every run has been is not seen to fall: all are compared over the same number of edits.
    horizon = min((step for step, fell in times.values() if not fell), default=math.inf)
    seen = {name: (step, fell) if step <= horizon else (int(horizon), False) for name, (step, fell) in times.items()}
    found = {}
    for method in dict.fromkeys(name.split("/")[1] for name in times):
        names = [name for name in times if name.split("/")[1] == method]
        found[method] = ([(results.run(name), seen[name][0]) for name in names], reach([seen[name] for name in names]))
    place = dict(zip(found, _places([far for _, far in found.values()]), strict=True))
    ranked = sorted(sorted(found, key=lambda m: _rank(found[m][1]), reverse=True), key=lambda m: place[m])
    rows, values, points = [], [], []
    for method in ranked:
        runs, far = found[method]
        ends = [made_and_kept(run, step) for run, step in runs]
        made, kept = (pooled([pair[side] for pair in ends], results.rng()) for side in (0, 1))
        spent = [run.journal.filter(pl.col("edit") <= step)["seconds"].drop_nulls() for run, step in runs]
        seconds = float(np.median(np.concatenate(spent)))
        each = ", ".join(f"{step}" if fell else f"> {step}" for step, fell in zip(far.steps, far.fell, strict=True))
        beside = max((_beside(run.path) for run, _ in runs), default=math.nan)
        row = [
            str(place[method]),
            method,
            _text(far),
            each,
            made.text,
            kept.text,
            number(seconds, 2),
            _megabytes(beside),
        ]
        rows.append(row)
        figures = {"made": list(made), "kept": list(kept), "seconds": seconds, "beside_bytes": beside}
        values.append({"place": place[method], "method": method, **asdict(far), **figures})
        most = max(far.steps)
        point = {"value": min(far.median, most), "low": min(far.low, most), "high": min(far.high, most)}
        series = "the median run falls" if math.isfinite(far.median) else "it does not, as far as it was run"
        points.append({"group": method, "series": series, **point})
    columns = ["place", "method", "edits to the fall", "each draw", "exact when made", "exact at the last re-test"]
    columns += ["s/edit", "MB beside the weights"]
    bounds = _bounds([far for _, far in found.values()])
    note = (
        "Edits to the fall: the median over draws (of an even number the lower middle one) of the re-test at which the "
        f"fall is first seen; it lies up to one interval between re-tests earlier. In parentheses {bounds}. A method's "
        "place is one more than the number of methods of which it lies wholly above its own: methods of one place are "
        "ties. Exact when made, at the last re-test: of all edits asked for up to that re-test, at the fall or where "
        "the comparison ends, with 95 % intervals over draws and facts; an edit for which the method had nothing to "
        "propose counts in both. MB beside the weights: what a method itself keeps (keys, codebooks, networks) at its "
        "last checkpoint; every process holds Python, torch and the model besides, some 650 MB."
    )
    caption = f"Edits until unrelated facts have dropped by 5 %: median, and {bounds}"
    drawn = ranges(pl.DataFrame(points), Axis("edits", log=True))
    metrics = (FALL.metric, "efficacy.exact@now", "efficacy.exact@retest", *METRICS)
    tables = [Table(columns, rows, values, note), table3({m: found[m][0] for m in ranked}, results.seed)]
    return Answer(tables, drawn, caption, metrics)


def _rank(far: Reach) -> tuple[float, float, float]:
    """Order by the median; where it is infinite, by how many runs never fell and by how far they went."""
    return far.median, 1 - float(np.mean(far.fell)), float(np.mean(far.steps))


def _places(found: Sequence[Reach]) -> list[int]:
    """Give every method its place: one more than the number of those whose interval lies wholly above its own."""
    return [1 + sum(other.low > far.high for other in found) for far in found]


def _text(far: Reach) -> str:
    def say(step: float) -> str:
        return f"over {max(far.steps)}" if math.isinf(step) else f"{step:.0f}"

    if math.isinf(far.low):
        return say(far.median)
    return f"{say(far.median)} ({say(far.low)}–{say(far.high)})" if far.low != far.high else say(far.median)


def _bounds(found: Sequence[Reach]) -> str:
    """Say what stands beside the median: few draws have no 95 % interval."""
    fewest = min(found, key=lambda far: far.coverage)
    if fewest.coverage >= LEVEL:
        return "the 95 % interval of the median"
    return f"the range of the draws (of {len(fewest.steps)}, it holds the median {fewest.coverage:.1%} of the time)"


def made_and_kept(run: RunFrames, upto: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return fact and value of every edit asked for up to the last re-test: exact right after it, and at that re-test.

    What is not tested there is not kept: no edit is for which the method had nothing to propose.

    Args:
        run: the run.
        upto: the last step that counts.
    """
    again = run.metric("efficacy.exact@retest").filter(pl.col("step") <= upto)
    last = again["step"].max() if len(again) else upto
    asked, names = run.journal.filter(pl.col("edit") <= last), fact_names(run)
    found = []
    for rows in (run.metric("efficacy.exact@now"), again.filter(pl.col("step") == last)):
        value = {unit: v for unit, v in units(rows).iter_rows() if not math.isnan(v)}
        facts = {"fact": [names[i] for i in asked["id"]], "value": [value.get(i, 0.0) for i in asked["id"]]}
        found.append(pl.DataFrame(facts, schema={"fact": pl.String, "value": pl.Float64}))
    return found[0], found[1]


def _beside(run: Path) -> float:
    """Return the bytes of what the method keeps beside the weights, at the newest checkpoint."""
    folders = sorted((run / "checkpoints").glob("step-*"))
    return float(sum(f.stat().st_size for f in folders[-1].glob("editor*"))) if folders else math.nan


def _megabytes(size: float) -> str:
    return "none" if size < _EMPTY else number(size / 1e6, 2)


QUESTION = Question(
    name="furthest",
    title="Which editor goes furthest before unrelated facts drop by 5 %?",
    work=work,
    about=about,
    answer=answer,
    make=partial(make_until, FALL),
    grows=True,
    samples=6,
    edits=800,
    least_edits=EVERY,
    over=partial(fell, FALL),
)
