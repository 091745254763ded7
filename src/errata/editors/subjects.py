"""Keys of subjects in general, which an edit of one subject should leave as they are."""

from collections.abc import Sequence
from importlib.resources import files

from jaxtyping import Float
from torch import Tensor

from errata.editors.keys import FactToken
from errata.editors.staged import Ascent
from errata.edits import Fact
from errata.models import EditableModel

__all__ = ["subject_keys", "subjects"]

_CONTEXT = "In the next chapter we turn to another example. {}"


def subjects() -> list[str]:
    """Return made-up subjects of many kinds: people, places, firms, works, things.

    They are made up so that no one edits them: a subject's own key must stay free to change.
    """
    lines = (files("errata.editors") / "subjects.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def subject_keys(model: EditableModel, layers: Sequence[int], token: FactToken) -> dict[str, Float[Tensor, "in key"]]:
    """Return the keys of made-up subjects at every layer, by module path.

    Args:
        model: the unedited model.
        layers: the edited layers, ascending.
        token: where a fact is looked up.
    """
    facts = [Fact(subject=subject, prompt="{} is", target_new="known") for subject in subjects()]
    return Ascent(model, facts, layers, [_CONTEXT], token).all_keys()
