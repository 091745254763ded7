"""Where in the layers does a model stop being compatible with itself?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from errata.analysis.compatibility import against_drift, drift_at_loss
from errata.lab.models import spec_of
from errata.report.question_charts import Axis, bands, below
from errata.report.words import number
from errata.studies.questions.question import Answer, Question, Table
from errata.studies.questions.recipes import BARE, recipe
from errata.studies.questions.shares import final
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Size, Work
from errata.studies.streams import orders_of, same, section

__all__ = ["QUESTION"]

FORMS: Mapping[str, Mapping[str, Any]] = {"rome-without-C": BARE, "ft-c": {"name": "ft-c"}}
LOSSES = (0.05, 0.5)
"""Shares of the unrelated facts whose loss is looked for."""


def work(size: Size, out: Path) -> Work:
    """List the runs: each layer edited alone, by a closed form without C and by fine-tuning."""
    probes = [
        {"name": "proficiency", "at_start": False, "at_end": False},
        {"name": "unrelated", "every": 5, "also_at": [1, 2, 3]},
        {"name": "downstream", "every": 5, "n": 20, "also_at": [1, 2, 3]},
        {"name": "drift", "every": 5, "also_at": [1, 2, 3], "dominant": False, "keys": 0},
    ]
    runs = {
        f"layers/{form}-{layer}/{k}": recipe(
            size.model,
            {**method, "layer": layer},
            section("same", k, size.edits or 0, out),
            probes,
            f"{form}-{layer}-{k}",
        )
        for k in range(size.samples)
        for form, method in FORMS.items()
        for layer in range(spec_of(size.model).layers)
    }
    return Work(runs, files=orders_of({"same": same}, size))


def about(size: Size) -> str:
    """Say what is run."""
    return (
        f"{size.edits} facts of as many people, the same in {size.samples} orders, one at a time, each of the "
        f"{spec_of(size.model).layers} feed-forward projections edited alone; how far it has drifted is laid against "
        "what the model has lost."
    )


def answer(results: Results) -> Answer:
    """Read drift against loss for every layer."""
    rows, values, drawn = [], [], []
    for form in FORMS:
        curves: list[dict[str, object]] = []
        for kind in dict.fromkeys(name.split("/")[1] for name in results.names(f"layers/{form}-*")):
            layer = kind.rpartition("-")[2]
            runs = [results.run(name) for name in results.names(f"layers/{kind}/*")]
            found = [against_drift(run) for run in runs]
            made = final(runs, "efficacy.exact@now", results.rng()).estimate
            first, ends = ([frame.row(k, named=True)["drift"] for frame in found] for k in (1, -1))
            falls = {share: [drift_at_loss(f, "unrelated", share) for f in found] for share in LOSSES}
            tasks = [drift_at_loss(f, "tasks", LOSSES[0]) for f in found]
            left = final(runs, "unrelated.exact", results.rng()).estimate
            rows.append(
                [
                    form,
                    layer,
                    made.text,
                    _range(first),
                    _range(ends),
                    left.text,
                    *(_range(falls[share]) for share in LOSSES),
                    _range(tasks),
                ]
            )
            entry = {"drift after one edit": first, "drift at the end": ends, "tasks at 5 %": tasks}
            entry |= {"efficacy": list(made)} | {f"unrelated at {share:.0%}": falls[share] for share in LOSSES}
            values.append({"method": form, "layer": int(layer), "unrelated": list(left), **entry})
            curves += _curve(f"layer {layer}", found)
        if curves:
            drawn.append(
                bands(
                    pl.DataFrame(curves),
                    Axis(f"{form}: drift ‖ΔW‖/‖W₀‖ of the edited matrix", log=True),
                    Axis("unrelated facts left", share=True),
                )
            )
    columns = ["method", "layer", "edits exact when made", "drift after one edit", "drift at the end"]
    columns += ["unrelated facts at the end"]
    columns += [f"drift at which {share:.0%} of them are lost" for share in LOSSES]
    columns += ["drift at which 5 % of the tasks are lost"]
    note = (
        "Drifts as the range over orders; “never” where the run ends before. Drifts at a loss are interpolated: "
        "between two re-tests drift and loss are taken to be linear, so that those below the drift after one edit, "
        "before which nothing was tested, lie between none and that."
    )
    figure = below(*drawn) if len(drawn) > 1 else drawn[0]
    caption = "Unrelated facts left against the drift of the one edited matrix; the band is the range over orders"
    metrics = ("efficacy.exact@now", "drift.relative", "unrelated.exact", "downstream.*.item")
    return Answer([Table(columns, rows, values, note)], figure, caption, metrics)


def _curve(label: str, found: list[pl.DataFrame]) -> list[dict[str, object]]:
    """Average drift and loss over the orders, step by step."""
    made: list[dict[str, object]] = []
    for step in found[0].filter(pl.col("step") > 0)["step"]:
        at = pl.concat([f.filter(pl.col("step") == step) for f in found])
        drift, left = at["drift"].to_numpy(), at["unrelated"].to_numpy()
        bounds = {"low": float(left.min()), "high": float(left.max())}
        made.append({"series": label, "x": float(drift.mean()), "value": float(left.mean()), **bounds})
    return made


def _range(values: list[float]) -> str:
    low, high = ("never" if v == float("inf") else number(v) for v in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


QUESTION = Question(
    name="layers",
    title="Where in the layers does a model stop being compatible with itself?",
    work=work,
    about=about,
    answer=answer,
    samples=2,
    edits=40,
)
