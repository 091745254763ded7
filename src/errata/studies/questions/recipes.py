"""The recipes of the questions' runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from errata.studies.recipe import Recipe

__all__ = ["BARE", "FORMS", "recipe"]

BARE = {"name": "rome", "use_covariance": False}
"""ROME without the covariance, as its published files for Llama have it: the form that breaks on the lab."""
FORMS: Mapping[str, Mapping[str, Any]] = {
    "rome-without-C": BARE,
    "ft-c": {"name": "ft-c"},
    "lora": {"name": "lora"},
    "memit": {"name": "memit"},
}
"""Methods of four kinds, three of which forget within a hundred edits."""


def recipe(
    model: str,
    method: Mapping[str, Any],
    edits: Mapping[str, Any],
    probes: Sequence[Mapping[str, Any]],
    name: str,
    seed: int = 0,
    checkpoint_every: int = 20,
) -> Recipe:
    """Return a run of a question.

    Args:
        model: a lab model.
        method: the recipe's section.
        edits: the recipe's section.
        probes: the recipe's sections.
        name: of the run.
        seed: of everything the method samples.
        checkpoint_every: edits between checkpoints.
    """
    return Recipe.model_validate(
        {
            "model": {"name": model},
            "method": dict(method),
            "edits": dict(edits),
            "probes": [dict(probe) for probe in probes],
            "run": {"name": name.replace("/", "-"), "seed": seed, "checkpoint_every": checkpoint_every},
        }
    )
