"""The second paper: Lin, Beigi, Li, Zhou, Zhang, Wang, Yin and Huang, *Navigating the Dual Facets* (2402.11122).

What is made: its four methods over disjoint sets of edits, then one thing changed at a time: constraint, layers, batch,
size of the model, instruction tuning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errata.lab.models import LAB_MODELS, spec_of
from errata.studies.recipe import Recipe
from errata.studies.reproduce.lin2024_claims import CLAIMS, STEPS
from errata.studies.reproduce.work import Reproduction, Size, Training, Work

__all__ = ["REPRODUCTION", "Variant", "variants"]

N = 100
"""Edits of a run, as in the paper."""
ASIDE = 4
"""Sets whose facts MEND's network is not trained on, even where fewer are edited."""
_BETWEEN = (50, 75)
"""Where the paper's figures are drawn beside Table 1's steps."""
_ITEMS = 50
"""Items of each task, and facts that nobody edited."""
_WEAK = 1.0
"""A ridge of one mean diagonal of C: the keys' variances then differ by a factor of two where they differed by
hundreds. Without C it is infinite; the lab's own is 0.001."""


@dataclass(frozen=True)
class Variant:
    """How the runs of one kind differ from the default.

    Args:
        method: its name, and what differs from the settings recommended for the model.
        twin: what stands behind the model's name: "-small" for lab-s-small.
        edits: what differs in the recipe's section `edits`.
    """

    method: Mapping[str, Any]
    twin: str = ""
    edits: Mapping[str, Any] = field(default_factory=dict)


def variants(model: str, n: int, out: Path) -> dict[str, Variant]:
    """List the kinds of runs for a lab model.

    Args:
        model: its name.
        n: edits of a run.
        out: the reproduction's directory.
    """
    # After the last block nothing reads the subject's state any more: what is edited there cannot take.
    late = spec_of(model).layers - 2
    bare = {"name": "rome", "use_covariance": False}
    found = {
        "mend": Variant({"name": "mend", "batches": "each", "checkpoint": str(out / "trained" / "mend")}),
        "rome": Variant({"name": "rome"}),
        "rome-without-C": Variant(bare),
        "memit": Variant({"name": "memit"}),
        "grace": Variant({"name": "grace"}),
        "rome-weak-C": Variant({"name": "rome", "ridge": _WEAK}),
        "rome-without-C-first-layer": Variant({**bare, "layer": 0}),
        "rome-without-C-late-layer": Variant({**bare, "layer": late}),
        "memit-late-layers": Variant({"name": "memit", "layers": [late - 1, late]}),
        "memit-batches-of-10": Variant({"name": "memit"}, edits={"batch_size": min(10, n)}),
        "memit-one-batch": Variant({"name": "memit"}, edits={"batch_size": n}),
    }
    twins = {
        "rome-without-C-small": Variant(bare, "-small"),
        "rome-without-C-large": Variant(bare, "-large"),
        "rome-without-C-chat": Variant(bare, "-chat", {"prompt_form": "chat"}),
        "memit-large": Variant({"name": "memit"}, "-large"),
        "memit-large-five-layers": Variant({"name": "memit", "layers": list(range(5))}, "-large"),
    }
    return found | {kind: v for kind, v in twins.items() if model + v.twin in LAB_MODELS}


def work(size: Size, out: Path) -> Work:
    """List the runs: every variant over disjoint sets of edits, in each of which no subject comes twice."""
    people, n = spec_of(size.model).people, _edits(size)
    runs = {
        f"{kind}/{i}": _recipe(size.model, kind, variant, n, i * people, i)
        for i in range(size.samples)
        for kind, variant in variants(size.model, n, out).items()
    }
    return Work(runs, {"mend": Training("mend", size.model, skip=max(size.samples, ASIDE) * people, settings=_MEND)})


_MEND = ("steps=1000", "lr=5e-4", "rank=64", "alpha=1e-3", "validate_every=50")
"""As recommended for lab-s; taken for every model."""


def _edits(size: Size) -> int:
    return size.edits or min(N, spec_of(size.model).people - 20)


def _recipe(model: str, kind: str, variant: Variant, n: int, skip: int, number: int) -> Recipe:
    schedule = {"every": n, "also_at": sorted({*STEPS, *_BETWEEN} - {n})}
    return Recipe.model_validate(
        {
            "model": {"name": model + variant.twin},
            "method": dict(variant.method),
            # A round of the lab's edits has every person once, so that a set of one round repeats no subject, and
            # sets of different rounds share no fact. All models of one world are asked for the same.
            "edits": {"dataset": "lab", "path": model, "n": n, "skip": skip, **variant.edits},
            "probes": [
                {"name": "proficiency", "at_end": False},
                {"name": "forgetting", "paraphrases": True, **schedule},
                {"name": "downstream", "n": _ITEMS, **schedule},
                {"name": "unrelated", "n": _ITEMS, **schedule},
                {"name": "drift", "dominant": False, "keys": 0, **schedule},
            ],
            "run": {"name": f"{kind}-{number}", "seed": number, "checkpoint_every": 50},
        }
    )


def about(size: Size) -> Sequence[str]:
    """Say what figures of this size can and cannot say."""
    spec, n = spec_of(size.model), _edits(size)
    sets = (
        f"each kind of run is made with {size.samples} disjoint sets of edits"
        if size.samples > 1
        else "one set of edits was used, so that no interval says how far sets differ"
    )
    return (
        f"{size.model} is a GPT-2 of {spec.layers} blocks and width {spec.width} that knows a synthetic world of "
        f"{spec.people} people completely. Each run makes {n} edits of another person each, one at a time unless it "
        f"says otherwise; {sets}. The paper edits "
        "Llama-2-7b, -7b-chat and -13b with 100 samples of zsRE in three disjoint sets.",
        f"Capability stands for the paper's average of eight sets. It is the share of {5 * _ITEMS} items that are "
        f"right: {_ITEMS} of each of the lab's four tasks, and as many facts that nobody edited, since MMLU and "
        "CommonsenseQA ask for knowledge. Lost is relative to the unedited model; an item that is not answered is "
        "lost, and half of a task's are right by guessing. Individual scores test each edit right after it is made, "
        "sequential ones all edits on the final model; an edit is there when every token of its object is the most "
        "probable one.",
        "What such models can say: whether a pattern belongs to the methods, which are the published ones. What they "
        "cannot: after how many edits a Llama breaks, or that a claim which does not hold here is wrong there. The "
        "lab's tasks hang on few words each; its facts are decided at the subject's last token, after one block, "
        "because the models were trained so, so that ROME and MEMIT meet here what they assume.",
        "The paper's cliff, at 14 to 20 edits, is a single edit in a stream of natural questions. The lab's edits are "
        "of one make, and with the covariance C neither ROME nor MEMIT is expected to lose anything within so few. "
        "So size, instruction tuning, layers and sets are compared with ROME in the form that does break here: "
        "without C, as its published files for Llama have it (mom2_adjustment: false).",
        "The sizes are three models of one world, of the same recipe: lab-s-small (4 blocks of 128), lab-s (4 of 192) "
        "and lab-s-large (6 of 256). The instruction-tuned twin is lab-s trained on with questions and answers; it is "
        "edited and asked in its chat template.",
    )


REPRODUCTION = Reproduction(
    name="lin2024",
    title="Navigating the Dual Facets: A Comprehensive Evaluation of Sequential Memory Editing in Large Language "
    "Models",
    arxiv="2402.11122",
    model="lab-s",
    about=about,
    work=work,
    claims=CLAIMS,
    samples=3,
    shown={f"{kind}/0": kind for kind in ("mend", "rome", "rome-without-C", "memit", "grace")},
)
