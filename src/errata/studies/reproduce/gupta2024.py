"""The first paper, *Model Editing at Scale leads to Gradual and Catastrophic Forgetting* (2401.07453).

What is made: its four methods, ROME in two forms, each over four samples of edits.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from errata.lab.models import spec_of
from errata.studies.recipe import Recipe
from errata.studies.reproduce.falls import RULE
from errata.studies.reproduce.gupta2024_claims import CLAIMS, collapsed_texts
from errata.studies.reproduce.work import Reproduction, Size, Training, Work

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
LEFT = 10
"""People whom no run edits, so that something is left to ask about."""
MOST = 200
"""Edits of a run at most: the collapses of the lab's models come before."""
SCREENED = 50
"""Facts of a screen at most, each as the first edit of the clean model."""
PROBES = (
    {"name": "proficiency", "at_start": False},
    {"name": "unrelated", "n": 100},
    {"name": "perplexity", "lines": 50},
    {"name": "drift", "dominant": False, "keys": 0},
)
"""What is measured after a first edit: what `errata screen` judges by."""
ITEMS, OTHERS = 40, 80
"""Items of each of the four tasks, and facts about people whom no run edits. The paper has 200 items a task."""
EVERY = 10
"""Edits between re-tests of edits and tasks, as in the paper (§3.2, §3.3)."""
_MEND = ("steps=1000", "lr=5e-4", "rank=64", "alpha=1e-3", "validate_every=50")
"""How lab-s's card trains MEND; taken for every model, since not all have recommended settings of their own."""


def edits(size: Size) -> int:
    """Return how many edits a run makes: another person each, as no subject comes twice in the paper (§3)."""
    return size.edits or min(MOST, spec_of(size.model).people - LEFT)


def work(size: Size, out: Path) -> Work:
    """List the runs: each form over samples of edits drawn with seeds of their own, all people in another order."""
    n = edits(size)
    runs = {
        f"{form}/{sample}": _recipe(size.model, form, n, sample, out)
        for sample in range(size.samples)
        for form in FORMS
    }
    screens = {f"first/{form}": _screen(size.model, form, min(n, SCREENED), out) for form in (*FORMS, "r-rome")}
    return Work(runs, {"mend": Training("mend", size.model, skip=n, settings=_MEND)}, screens)


def _method(form: str, out: Path) -> dict[str, Any]:
    settings = dict(FORMS.get(form, {"name": form}))
    return settings | ({"checkpoint": str(out / "trained" / "mend")} if form == "mend" else {})


def _screen(model: str, form: str, n: int, out: Path) -> Recipe:
    edits = {"dataset": "lab", "n": n, "seed": 0}
    content = {"model": {"name": model}, "method": _method(form, out), "edits": edits, "probes": list(PROBES)}
    return Recipe.model_validate(content)


def _recipe(model: str, form: str, n: int, sample: int, out: Path) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"name": model},
            "method": _method(form, out),
            "edits": {"dataset": "lab", "n": n, "seed": sample},
            "probes": [
                {"name": "proficiency"},
                {"name": "forgetting", "every": EVERY},
                {"name": "unrelated", "every": EVERY, "n": OTHERS},
                {"name": "downstream", "every": EVERY, "n": ITEMS},
                {"name": "perplexity", "every": EVERY, "lines": 50},
                {"name": "drift", "dominant": False, "keys": 0},
                {"name": "text", "every": n},
                {"name": "entropy", "every": n},
            ],
            "run": {"name": f"{form}-{sample}", "seed": sample, "checkpoint_every": 50},
        }
    )


def about(size: Size) -> Sequence[str]:
    """Say what figures of this size can and cannot say."""
    spec, n = spec_of(size.model), edits(size)
    return (
        f"{size.model} is a GPT-2 of {spec.layers} blocks and width {spec.width} that knows a synthetic world of "
        f"{spec.people} people completely, and four small tasks. Each run makes {n} edits, one at a time, of another "
        f"person each; each method makes it {size.samples} times, over other facts in another order. The paper edits "
        "GPT2-XL (1.5 B) and GPT-J (6 B) 1,000 to 6,000 times, with CounterFact, in four samples.",
        "What such a model can say: whether a pattern is a property of the methods, which are the published ones: the "
        "same equations, held against their authors' code. Where a claim holds here, it needs neither a large model "
        "nor natural text. What it cannot say: at how many edits a large model breaks, how much of GLUE is lost, or "
        "that a claim which does not hold here is wrong there. Efficacies are high because the model was made to be "
        "editable; its keys hardly depend on context, which is what the paper's disabling edits of ROME come from.",
        "ROME stands here in two forms. With the covariance C it is the form that the paper ran; without, the one of "
        "its published files for Llama, under which this model breaks sooner. Both have every row.",
        f"Here {RULE}.",
        f"MEND's network was trained on the facts of the first sample's draw that the first sample does not edit "
        f"(all but its first {n}); the other samples draw other objects, and some of their people and relations were "
        "in its training, which can only help it.",
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
