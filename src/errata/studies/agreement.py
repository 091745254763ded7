"""Whether a run directory is the run that a recipe asks for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from errata.errors import RunError
from errata.models import EditableModel
from errata.studies.recipe import Recipe
from errata.studies.session import resolved
from errata.studies.store import RunStore

__all__ = ["check_agreement"]


def check_agreement(run: Path, recipe: Recipe, model: EditableModel, store: type[RunStore] = RunStore) -> None:
    """Refuse a run that was begun with other settings than a recipe asks for.

    A setting that the run does not know, because it is younger than the run, is no difference while the recipe leaves
    it at its default.

    Args:
        run: the run directory.
        recipe: what is asked for.
        model: the recipe's model, or its outline.
        store: reads the directory.

    Raises:
        RunError: names the first key that differs.
    """
    begun = _flat(store(run).description()["config"])
    chosen = _flat(json.loads(recipe.model_dump_json(exclude_unset=True)))
    asked = _flat(json.loads(resolved(recipe, model).model_dump_json()))
    for key in [*asked, *(key for key in begun if key not in asked)]:
        if key not in begun and key not in chosen:
            continue
        was, now = (json.dumps(flat[key]) if key in flat else "not set" for flat in (begun, asked))
        if was != now:
            raise RunError(
                f"{run} was begun with another recipe: {key} is {was} there, and {now} now. Name another directory, "
                f"or remove this one."
            )


def _flat(content: Any, key: str = "") -> dict[str, Any]:
    """Return nested mappings and lists as one mapping of dotted keys."""
    if not content or not isinstance(content, Mapping | list):
        return {key: content}
    items = content.items() if isinstance(content, Mapping) else enumerate(content)
    return {k: v for name, inner in items for k, v in _flat(inner, f"{key}.{name}" if key else str(name)).items()}
