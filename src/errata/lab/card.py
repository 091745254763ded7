"""The card of a lab model: what it knows, whether it can be edited, and how it breaks, all measured."""

import json
from collections.abc import Callable
from functools import partial
from math import sqrt
from pathlib import Path
from random import Random
from typing import Any

from errata.lab.dialogue import questions
from errata.lab.evaluate import UNRELATED_TEXT, recall, task_scores
from errata.lab.models import asset_path, load_world
from errata.lab.sequence import edit_in_sequence
from errata.lab.single_edits import measure_single_edits
from errata.lab.trace import interchange_trace

__all__ = ["METHODS", "SEQUENCES", "TARGETS", "follow", "measure", "wilson", "write_card"]

METHODS = ("r-rome", "memit")
"""The methods whose single edits the card measures."""

SEQUENCES: dict[str, tuple[str, dict[str, Any]]] = {
    "rome without C": ("rome", {"use_covariance": False}),
    "rome": ("rome", {}),
    "r-rome": ("r-rome", {}),
    "memit": ("memit", {}),
}
"""What is followed over a sequence of edits: a method, and how its settings differ from the recommended ones. ROME's
published files for Llama leave the covariance C out."""

TARGETS = {
    "recall": 0.99,
    "task": 0.90,
    "efficacy.success": 0.95,
    "paraphrase.success": 0.90,
    "neighborhood.success": 0.90,
    "unrelated": 0.98,
    "same_subject": 0.90,
}
"""What a lab model is to reach, by figure."""

Progress = Callable[[str, int, int], None]


def wilson(right: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a share.

    Args:
        right: how many were right.
        of: out of how many.
        z: the normal quantile, 1.96 for 95 %.
    """
    if not of:
        return 0.0, 1.0
    share, square = right / of, z * z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = z / (1 + square / of) * sqrt(share * (1 - share) / of + square / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def measure(
    name: str, n_edits: int = 100, sequence: int | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure a shipped lab model.

    Args:
        name: one of ``LAB_MODELS``.
        n_edits: single edits of each method, each on the clean model.
        sequence: edits made one after another by `follow`; by default one a person. 0 leaves this out.
        progress: called with (what, done, total).

    Returns:
        The figures, as they are written to ``card.json``.
    """
    from errata.models.loading import load

    tell: Progress = progress or _silent
    model, world = load(name), load_world(name)
    facts = world.facts()
    start = recall(model.model, model.tokenizer, facts)
    after = recall(model.model, model.tokenizer, facts, UNRELATED_TEXT)
    figures: dict[str, Any] = {
        "name": name,
        "parameters": sum(p.numel() for p in model.model.parameters()),
        "people": len(world.people),
        "relations": len(world.relations),
        "facts": len(facts),
        "recall_start": start,
        "recall_after_text": after,
        "tasks": task_scores(model.model, model.tokenizer),
        "trace": interchange_trace(model, world, 200, Random("trace")),
        "single_edits": {},
        "sequence": {},
    }
    if model.tokenizer.chat_template:
        figures["recall_in_turns"] = recall(model.model, model.tokenizer, questions(world))
    for method in METHODS:
        single = partial(tell, f"{method}, single edits")
        counts = measure_single_edits(model, method, world, n_edits, progress=single)
        figures["single_edits"][method] = {key: list(value) for key, value in counts.items()}
    figures["sequence"] = follow(name, sequence, progress)
    return figures


def follow(name: str, n: int | None = None, progress: Progress | None = None) -> dict[str, list[dict[str, float]]]:
    """Edit a shipped lab model one fact after another, once for each of `SEQUENCES`, and measure along the way.

    Args:
        name: one of ``LAB_MODELS``.
        n: how many edits; by default one a person, so that no subject comes twice.
        progress: called with (what, done, total).
    """
    from errata.models.loading import load

    tell: Progress = progress or _silent
    model, world = load(name), load_world(name)
    n = len(world.people) if n is None else n
    points = {}
    for label, (method, settings) in SEQUENCES.items() if n else ():
        told = partial(tell, f"{label}, in sequence")
        points[label] = edit_in_sequence(model, method, world, n, settings=settings, progress=told)
    return points


def _silent(what: str, done: int, total: int) -> None:
    pass


def write_card(figures: dict[str, Any], docs: Path | None = None) -> None:
    """Write ``card.json`` into the model's directory, and the page where asked for.

    Args:
        figures: from `measure`.
        docs: the directory of the page.
    """
    from errata.lab.page import page

    path = asset_path(figures["name"])
    training = path / "training.json"
    if training.exists():
        figures = {**figures, "training": json.loads(training.read_text())}
    (path / "card.json").write_text(json.dumps(figures, indent=1) + "\n")
    if docs is not None:
        (docs / f"{figures['name']}.md").write_text(page(figures))
