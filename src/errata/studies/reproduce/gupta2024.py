"""The first paper, *Model Editing at Scale leads to Gradual and Catastrophic Forgetting* (2401.07453).

What is made: its four methods, ROME in two forms, each over four samples of edits (ROME without C over six).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from errata.errors import ConfigError
from errata.lab.models import LAB_MODELS, spec_of
from errata.studies.recipe import Recipe
from errata.studies.reproduce.falls import RULE
from errata.studies.reproduce.gupta2024_claims import BARE, CLAIMS, collapsed_texts
from errata.studies.reproduce.gupta2024_table3 import APART
from errata.studies.reproduce.work import Reproduction, Size, Training, Work
from errata.studies.streams import KEPT, long, orders_of, section

__all__ = ["FORMS", "REPRODUCTION"]

FORMS: Mapping[str, Mapping[str, Any]] = {
    "ft-c": {"name": "ft-c"},
    "rome": {"name": "rome"},
    # ROME's published files for Llama leave the covariance out (`mom2_adjustment: false`); those for GPT have it.
    "rome-without-C": {"name": "rome", "use_covariance": False},
    "memit": {"name": "memit"},
    "mend": {"name": "mend", "batches": "each"},
}
"""The methods' settings beside those recommended for the model."""
TWIN = "-first"
"""Behind a model's name: its twin, whose keys at a text's beginning were trained apart from those later."""
TWINS: Mapping[str, Mapping[str, Any]] = {
    f"{method}{APART}": {"name": method} for method in ("rome", "r-rome", "memit")
}
"""The forms that edit the twin: there ROME meets what its disabling edits come from (2403.07175)."""
EDITS = 600
"""Edits of a run: three of the paper's four runs of ROME have collapsed by edit 560 (Figs. 13 to 20)."""
AT_MOST = {"mend": 120} | dict.fromkeys(TWINS, 120)
"""Edits of a form's runs at most: the paper's figures of MEND end before edit 100; of the twin single edits matter."""
FURTHER = {BARE: 2}
"""Samples more than of the other forms: of fewer than six collapses nothing can be said of how far they differ."""
SCREENED, SCREENED_TWIN = 50, 200
"""Facts of a screen at most, each as the first edit of the clean model; some six in a hundred disable the twin."""
PROBES = (
    {"name": "proficiency", "at_start": False},
    {"name": "unrelated", "n": 100},
    {"name": "perplexity", "lines": 50},
    {"name": "drift", "dominant": False, "keys": 0},
)
"""What is measured after a first edit: what `errata screen` judges by."""
ITEMS, OTHERS = 40, 80
"""Items of each of the four tasks, and facts about people whom no run edits. The paper has 200 items a task."""
SCHEDULE = {"every": 20, "also_at": tuple(range(10, 200, 20))}
"""When edits and tasks are re-tested: every ten edits as in the paper (§3.2, §3.3), every twenty after 200."""
_MEND = ("steps=1000", "lr=5e-4", "rank=64", "alpha=1e-3", "validate_every=50")
"""How lab-s's card trains MEND; taken for every model, since not all have recommended settings of their own."""


def edits(size: Size) -> int:
    """Return how many edits a run makes."""
    return size.edits or EDITS


def work(size: Size, out: Path) -> Work:
    """List the runs: each form over samples of edits drawn with seeds of their own, each in an order of its own."""
    n, facts = edits(size), len(long(size.model, 0))
    if n > facts:
        raise ConfigError(
            f"--edits is {n}, and {size.model} has {facts} facts for a run. Ask for {facts} or fewer, or name a larger "
            "lab model with --model."
        )
    twins = list(TWINS) if size.model + TWIN in LAB_MODELS else []
    samples = {form: range(size.samples + FURTHER.get(form, 0)) for form in (*FORMS, *twins)}
    most = max(map(len, samples.values()))
    runs = {
        f"{form}/{sample}": _recipe(size.model, form, min(n, AT_MOST.get(form, n)), sample, out)
        for sample in range(most)
        for form in samples
        if sample in samples[form]
    }
    first = dict.fromkeys((*FORMS, "r-rome"), SCREENED) | dict.fromkeys(twins, SCREENED_TWIN)
    screens = {f"first/{form}": _screen(size.model, form, min(n, many), out) for form, many in first.items()}
    files = orders_of({"long": long}, replace(size, samples=most))
    return Work(runs, {"mend": Training("mend", size.model, skip=_unseen(size), settings=_MEND)}, screens, files)


def _unseen(size: Size) -> int:
    """Return how many facts MEND's network is not trained on: the rounds of everyone that the first sample edits."""
    people = spec_of(size.model).people
    return math.ceil(min(edits(size), AT_MOST["mend"]) / (people - KEPT)) * people


def _method(form: str, out: Path) -> dict[str, Any]:
    settings = dict({**FORMS, **TWINS}.get(form, {"name": form}))
    return settings | ({"checkpoint": str(out / "trained" / "mend")} if form == "mend" else {})


def _screen(model: str, form: str, n: int, out: Path) -> Recipe:
    content = {
        "model": {"name": _model(model, form)},
        "method": _method(form, out),
        "edits": {"dataset": "lab", "n": n, "seed": 0, **_world(model, form)},
        "probes": list(PROBES),
    }
    return Recipe.model_validate(content)


def _model(model: str, form: str) -> str:
    return model + TWIN if form in TWINS else model


def _world(model: str, form: str) -> dict[str, str]:
    """Name the world that a twin shares."""
    return {"path": model} if form in TWINS else {}


def _recipe(model: str, form: str, n: int, sample: int, out: Path) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"name": _model(model, form)},
            "method": _method(form, out),
            "edits": section("long", sample, n, out, **_world(model, form)),
            "probes": [
                {"name": "proficiency"},
                {"name": "forgetting", **SCHEDULE},
                {"name": "unrelated", "n": OTHERS, **SCHEDULE},
                {"name": "downstream", "n": ITEMS, **SCHEDULE},
                {"name": "perplexity", "lines": 50, **SCHEDULE},
                {"name": "drift", "dominant": False, "keys": 0},
                {"name": "text", "every": n},
                {"name": "entropy", "every": n},
            ],
            "run": {"name": f"{form}-{sample}", "seed": sample, "checkpoint_every": 100},
        }
    )


def about(size: Size) -> Sequence[str]:
    """Say what figures of this size can and cannot say."""
    spec, n = spec_of(size.model), edits(size)
    twin = (
        f"{size.model}{TWIN} is its twin in which the paper's disabling edits can exist: its keys at a text's "
        "beginning were trained apart from those of the same names later, as is reported of first tokens of GPT-2 XL "
        "(2406.11263). What is found there shows what that property does to a method, and not how often models have "
        f"it; its rows are not counted. Its runs make {AT_MOST[f'rome{APART}']} edits at most."
    )
    return (
        f"{size.model} is a GPT-2 of {spec.layers} blocks and width {spec.width} that knows a synthetic world of "
        f"{spec.people} people completely, and four small tasks. Each run makes {n:,} edits, one at a time: "
        f"{spec.people - KEPT} people once, then the same people with another relation, and so on, so that a subject "
        "comes back and a fact does not, where in the paper no subject comes twice. Each method makes it "
        f"{size.samples} times (ROME without C {size.samples + FURTHER[BARE]} times; MEND makes {AT_MOST['mend']} at "
        "most), over largely the same facts with other objects in another order; all edits of a person are resampled "
        "as one. Edits and tasks are re-tested after every tenth edit up to 200, then every twentieth. The paper edits "
        "GPT2-XL (1.5 B) and GPT-J (6 B) 1,000 to 6,000 times, with CounterFact, in four samples.",
        "What such a model can say: whether a pattern is a property of the methods, which are the published ones: the "
        "same equations, held against their authors' code. Where a claim holds here, it needs neither a large model "
        "nor natural text. What it cannot say: at how many edits a large model breaks, how much of GLUE is lost, or "
        "that a claim which does not hold here is wrong there. Efficacies are high because the model was made to be "
        "editable; its keys hardly depend on context, which is what the paper's disabling edits of ROME come from.",
        "ROME stands here in two forms. With the covariance C it is the form that the paper ran; without, the one of "
        "its published files for Llama, under which this model breaks sooner. Both have every row.",
        *([twin] if size.model + TWIN in LAB_MODELS else []),
        f"Here {RULE}.",
        f"MEND's network was trained on what is left of the first sample's draw: all but its first {_unseen(size):,} "
        "facts. The other samples draw other objects, some of them for facts that it was trained on.",
    )


REPRODUCTION = Reproduction(
    name="gupta2024",
    title="Model Editing at Scale leads to Gradual and Catastrophic Forgetting",
    arxiv="2401.07453",
    model="lab-s",
    about=about,
    work=work,
    claims=CLAIMS,
    shown={f"{form}/0": form for form in FORMS},
    exhibits=collapsed_texts,
)
