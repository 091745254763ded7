"""Do several batches in sequence differ from one batch?"""

from pathlib import Path

import polars as pl

from errata.report.question_charts import Axis, below, ranges
from errata.studies.questions.age import orders_work
from errata.studies.questions.question import Answer, Question, Table
from errata.studies.questions.recipes import recipe
from errata.studies.questions.shares import final, paired
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Size, Work
from errata.studies.streams import orders_of, same, section

__all__ = ["QUESTION"]

METHODS = ("ft-c", "lora", "memit")
"""Methods that take batches; ROME takes one fact at a time."""
SIZES = (10,)
"""Facts of an update, beside one and all."""
FIGURES = {
    "made": ("efficacy.exact@now", "edits exact right after their update"),
    "kept": ("efficacy.exact@retest", "edits exact at the end"),
    "unrelated": ("unrelated.exact", "unrelated facts right at the end"),
}


def work(size: Size, out: Path) -> Work:
    """List the runs: the same facts in the same orders, one at a time, in batches, and all at once."""
    n = size.edits or 0
    probes = [
        {"name": "proficiency", "at_start": False, "at_end": False},
        {"name": "forgetting", "every": n},
        {"name": "unrelated", "every": n},
    ]
    single = orders_work(size, out)
    runs = {name: run for name, run in single.runs.items() if name.split("/")[1] in METHODS} | {
        f"batches/{method}-{b}/{k}": recipe(
            size.model,
            {"name": method},
            section("same", k, n, out, batch_size=b),
            probes,
            f"{method}-{b}-{k}",
        )
        for k in range(size.samples)
        for method in METHODS
        for b in (*SIZES, n)
    }
    return Work(runs, files=orders_of({"same": same}, size))


def about(size: Size) -> str:
    """Say what is run."""
    sizes = ", ".join(map(str, SIZES))
    return (
        f"The same {size.edits} facts of as many people in {size.samples} orders: one at a time, in batches "
        f"of {sizes}, and all in one update. A method takes as many steps for a batch as for one fact."
    )


def answer(results: Results) -> Answer:
    """Compare what is there at the end by the number of facts an update carries."""
    rows: list[list[str]] = []
    values: list[dict[str, object]] = []
    points: dict[str, list[dict[str, object]]] = {key: [] for key in FIGURES}
    for method in METHODS:
        sizes = {1: f"orders/{method}/*"}
        for name in results.names(f"batches/{method}-*"):
            kind = name.split("/")[1]
            sizes[int(kind.rpartition("-")[2])] = f"batches/{kind}/*"
        single: dict[str, pl.DataFrame] = {}
        for b in sorted(sizes):
            names = results.names(sizes[b])
            if not names:
                continue
            found = {key: final([results.run(n) for n in names], m, results.rng()) for key, (m, _) in FIGURES.items()}
            kept = dict(zip((name.rpartition("/")[2] for name in names), found["kept"].groups, strict=True))
            single = kept if b == 1 else single
            both = [(facts, single[order]) for order, facts in kept.items() if order in single]
            gap = paired(both, results.rng()) if b > 1 and both else None
            label = "one at a time" if b == 1 else f"batches of {b}"
            rows.append([method, label, *(f.estimate.text for f in found.values()), gap.points if gap else ""])
            entry = {key: list(f.estimate) for key, f in found.items()}
            against = {"kept, against 1": list(gap)} if gap else {}
            values.append({"method": method, "batch": b, "runs": len(names), **entry, **against})
            for key, f in found.items():
                value, low, high = f.estimate
                points[key].append({"group": method, "series": label, "value": value, "low": low, "high": high})
    columns = ["method", "facts an update", *(title for _, title in FIGURES.values()), "kept, against one at a time"]
    note = "95 % intervals over orders and facts; differences are of the same facts in the same order."
    drawn = [ranges(pl.DataFrame(points[key]), Axis(FIGURES[key][1], share=True)) for key in ("kept", "unrelated")]
    caption = "What is there after the same facts: edits (above), unrelated facts (below)"
    metrics = tuple(metric for metric, _ in FIGURES.values())
    return Answer([Table(columns, rows, values, note)], below(*drawn), caption, metrics)


QUESTION = Question(
    name="batches",
    title="Do several batches in sequence differ from one batch?",
    work=work,
    about=about,
    answer=answer,
    least_edits=max(SIZES) + 1,
)
