"""What does MEMIT trade efficacy for?"""

from pathlib import Path

import numpy as np
import polars as pl

from errata.report.question_charts import Axis, ranges
from errata.report.words import number
from errata.studies.questions.question import Answer, Question, Table
from errata.studies.questions.recipes import BARE, recipe
from errata.studies.questions.shares import final
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Size, Work
from errata.studies.streams import orders_of, same, section

__all__ = ["QUESTION"]

WEIGHTS = (0.01, 1.0, 1e3, 2e3, 4e3, 1e4)
"""The λ of MEMIT's λC: how much the preserved keys weigh against the new ones; 1 is the lab's own, and
15,000 to 20,000 are published for real models."""
KINDS = {
    f"memit-{weight:g}": (f"MEMIT, λ = {weight:,g}", {"name": "memit", "covariance_weight": weight})
    for weight in WEIGHTS
}
KINDS |= {"rome": ("ROME", {"name": "rome"}), "rome-without-C": ("ROME without C", BARE)}
FIGURES = {
    "efficacy": ("efficacy.exact@now", "edits exact when made"),
    "paraphrase": ("paraphrase.exact@now", "paraphrases exact when made"),
    "kept": ("efficacy.exact@end", "edits exact at the end"),
    "neighborhood": ("neighborhood.exact@end", "neighbors right at the end"),
    "unrelated": ("unrelated.exact", "unrelated facts right at the end"),
    "same": ("same_subject.exact", "the edited people's other facts"),
}


def work(size: Size, out: Path) -> Work:
    """List the runs: MEMIT with each weight, and ROME in two forms beside it."""
    n = size.edits or 0
    probes = [
        {"name": "proficiency", "at_start": False, "at_end": True},
        {"name": "unrelated", "every": n},
        {"name": "drift", "every": n, "dominant": False},
    ]
    runs = {
        f"tradeoff/{kind}/{k}": recipe(size.model, method, section("same", k, n, out), probes, f"{kind}-{k}")
        for k in range(size.samples)
        for kind, (_, method) in KINDS.items()
    }
    return Work(runs, files=orders_of({"same": same}, size))


def about(size: Size) -> str:
    """Say what is run."""
    return (
        f"{size.edits} facts of as many people, the same in {size.samples} orders, one at a time, with MEMIT at six "
        "values of λ = covariance_weight, and with ROME, which has none: its edit is exact by construction."
    )


def answer(results: Results) -> Answer:
    """Lay efficacy beside what is left of everything else, for each weight."""
    rows, values, points = [], [], []
    for kind, (label, _) in KINDS.items():
        runs = [results.run(name) for name in results.names(f"tradeoff/{kind}/*")]
        if not runs:
            continue
        found = {key: final(runs, metric, results.rng()).estimate for key, (metric, _) in FIGURES.items()}
        drift = [_last(run.metric("drift.relative")) for run in runs]
        moved = [_last(run.metric("drift.preservation")) for run in runs]
        rows.append([label, *(f.text for f in found.values()), _range(drift), _range(moved)])
        figures = {key: list(f) for key, f in found.items()}
        values.append({"kind": kind, "runs": len(runs), **figures, "drift": drift, "preservation": moved})
        for key, f in found.items():
            title = FIGURES[key][1]
            points.append({"group": label, "series": title, "value": f.value, "low": f.low, "high": f.high})
    columns = ["", *(title for _, title in FIGURES.values()), "‖ΔW‖/‖W₀‖", "‖ΔWk₀‖²/‖W₀k₀‖²"]
    note = (
        "95 % intervals over orders and facts. ‖ΔW‖/‖W₀‖: the largest of the edited layers, at the end; "
        "‖ΔWk₀‖²/‖W₀k₀‖²: what the update does to the keys of held-out text; both as the range over orders."
    )
    drawn = ranges(pl.DataFrame(points), Axis("share", share=True))
    caption = "What is there by the weight of the preserved keys"
    metrics = (*(metric for metric, _ in FIGURES.values()), "drift.relative", "drift.preservation")
    return Answer([Table(columns, rows, values, note)], drawn, caption, metrics)


def _last(rows: pl.DataFrame) -> float:
    """Return the largest value at the last step."""
    last = rows.filter(pl.col("step") == pl.col("step").max())["value"].to_numpy()
    return float(np.max(last)) if len(last) else float("nan")


def _range(values: list[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


QUESTION = Question(
    name="tradeoff",
    title="What does MEMIT trade efficacy for?",
    work=work,
    about=about,
    answer=answer,
    samples=2,
    edits=50,
)
