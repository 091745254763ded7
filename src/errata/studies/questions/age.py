"""Does forgetting depend on an edit's age?"""

from pathlib import Path

import polars as pl

from errata.analysis.age import age_matrix, backward_transfer, by_age, newest_against_oldest
from errata.report.question_charts import Axis, bands, below, heat
from errata.studies.questions.question import Answer, Question, Table
from errata.studies.questions.recipes import FORMS, recipe
from errata.studies.questions.shares import differing, pooled, signed
from errata.studies.reproduce.estimates import Estimate
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Size, Work
from errata.studies.streams import orders_of, same, section

__all__ = ["QUESTION", "orders_work"]

EVERY = 5
"""Edits between re-tests."""
ENDS = 20
"""Edits that count as the newest, and as the oldest."""
BAND = 10
"""Edits of a band of ages."""


def orders_work(size: Size, out: Path) -> Work:
    """List the runs: the same facts in several orders, so that age and fact are not confounded."""
    probes = [
        {"name": "proficiency", "at_start": False, "at_end": False},
        {"name": "forgetting", "every": EVERY},
        {"name": "unrelated", "every": 2 * EVERY},
    ]
    runs = {
        f"orders/{form}/{k}": recipe(
            size.model, method, section("same", k, size.edits or 0, out), probes, f"{form}-{k}"
        )
        for k in range(size.samples)
        for form, method in FORMS.items()
    }
    return Work(runs, files=orders_of({"same": same}, size))


def about(size: Size) -> str:
    """Say what is run."""
    return (
        f"{size.edits} facts of as many people, the same ones in {size.samples} orders, one at a time; every earlier "
        f"edit re-tested after every {EVERY}th."
    )


def answer(results: Results) -> Answer:
    """Read R[i, j]: its mean below the diagonal, its newest and oldest rows, and what is kept at each age."""
    rows, values, curves, cells = [], [], [], []
    for form in FORMS:
        matrices = [age_matrix(results.run(name)) for name in results.names(f"orders/{form}/*")]
        if not matrices:
            continue
        transfer = signed([backward_transfer(m) for m in matrices], results.rng())
        ends = [newest_against_oldest(m, ENDS) for m in matrices]
        newest, oldest = (pooled([pair[side] for pair in ends], results.rng()) for side in (0, 1))
        gap = differing(ends, results.rng())
        early, late = _at_age_twenty(matrices, results)
        rows.append([form, transfer.points, newest.text, oldest.text, gap.points, early.text, late.text])
        figures = {"backward transfer": transfer, "newest": newest, "oldest": oldest, "gap": gap}
        figures |= {"early at 20": early, "late at 20": late}
        values.append({"method": form, "runs": len(matrices), **{name: list(f) for name, f in figures.items()}})
        curves += _curve(form, matrices, results)
        cells.append(_cells(form, matrices))
    columns = ["method", "backward transfer", f"newest {ENDS} kept", f"oldest {ENDS} kept", "difference"]
    columns += ["kept at age 20, made early", "kept at age 20, made late"]
    note = (
        "Backward transfer: R[i, T] − R[i, i], mean over all edits but the last. Newest, oldest: at the last step, of "
        "those exact when made. Made early, late: in the first and the second half of the run. 95 % intervals over "
        "orders and facts."
    )
    grown = bands(pl.DataFrame(curves), Axis("further edits since an edit was made"), Axis("kept", share=True))
    figure = below(heat(pl.concat(cells), "step j", "edit i"), grown)
    caption = "Edit i exact at step j, share of orders (above); what is kept at each age, with 95 % bands (below)"
    metrics = ("efficacy.exact@now", "efficacy.exact@retest")
    return Answer([Table(columns, rows, values, note)], figure, caption, metrics)


def _at_age_twenty(matrices: list[pl.DataFrame], results: Results) -> tuple[Estimate, Estimate]:
    """Return what is kept at ages of 11 to 20, of edits of the first and of the second half of their run."""
    halves: tuple[list[pl.DataFrame], list[pl.DataFrame]] = ([], [])
    for matrix in matrices:
        aged = by_age(matrix, BAND).filter(pl.col("age") == 2 * BAND)
        middle = (matrix["step"].max() or 0) / 2  # type: ignore[operator]
        for side, half in enumerate((pl.col("edit") <= middle, pl.col("edit") > middle)):
            halves[side].append(aged.filter(half))
    return pooled(halves[0], results.rng()), pooled(halves[1], results.rng())


def _curve(form: str, matrices: list[pl.DataFrame], results: Results) -> list[dict[str, object]]:
    aged = [by_age(matrix, BAND) for matrix in matrices]
    ages = sorted({age for frame in aged for age in frame["age"]})
    made = []
    for age in ages:
        found = pooled([frame.filter(pl.col("age") == age) for frame in aged], results.rng())
        made.append({"series": form, "x": age, "value": found.value, "low": found.low, "high": found.high})
    return made


def _cells(form: str, matrices: list[pl.DataFrame]) -> pl.DataFrame:
    block = ((pl.col("edit") - 1) // EVERY * EVERY).alias("y")
    tested = pl.concat(matrices).filter(pl.col("step") % EVERY == 0)
    cells = tested.group_by(block, pl.col("step").alias("x2")).agg(pl.col("kept").mean().alias("value"))
    x, y2 = (pl.col("x2") - EVERY).alias("x"), (pl.col("y") + EVERY).alias("y2")
    return cells.sort("y", "x2").select(pl.lit(form).alias("series"), x, "x2", "y", y2, "value")


QUESTION = Question(
    name="age",
    title="Does forgetting depend on an edit's age?",
    work=orders_work,
    about=about,
    answer=answer,
    least_edits=2 * ENDS,
)
