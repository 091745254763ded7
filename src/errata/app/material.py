"""Facts to begin with, and the prompts by which a typed fact is tried: a lab model's world knows them."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from errata.edits import Fact
from errata.edits.lab import read_lab
from errata.edits.relations import WORDINGS, taught_in_other_words
from errata.lab.models import LAB_MODELS, load_world
from errata.models import EditableModel
from errata.studies.correct import filled_in, readable

__all__ = ["Material"]

_NEIGHBORS = 3


class Material:
    """Know what can be asked about a fact.

    Args:
        model: the model; one of the lab's has a world of its own.
    """

    def __init__(self, model: EditableModel) -> None:
        self._model = model
        self._world = load_world(model.name) if model.name in LAB_MODELS else None

    def examples(self, n: int) -> list[Fact]:
        """Return n facts to try, changes of a lab model's world; of other models none is known."""
        return read_lab(None, self._model.name)[:n] if self._world else []

    def completed(self, fact: Fact, unedited: Callable[[Callable[[], list[Fact]]], list[Fact]]) -> Fact:
        """Return a fact with paraphrases, neighbors and its old object where they can be known.

        Args:
            fact: as it was typed.
            unedited: does some work on the unedited model.

        Raises:
            EditDataError: when the model cannot read it.
        """
        readable(self._model, [fact], skip_bad=False)
        (fact,) = taught_in_other_words([self._from_world(fact)], WORDINGS)
        return fact if fact.paraphrase_prompts else unedited(lambda: filled_in(self._model, [fact]))[0]

    def _from_world(self, fact: Fact) -> Fact:
        world = self._world
        relation = next((r for r in world.relations if fact.prompt in r.phrasings), None) if world else None
        if world is None or relation is None or (true := world.truth.get((fact.subject, relation.name))) is None:
            return fact
        others = [p for p in world.people if p != fact.subject and world.truth.get((p, relation.name)) == true]
        paraphrases: Sequence[str] = [p.replace("{}", fact.subject) for p in relation.phrasings if p != fact.prompt]
        neighbors: Sequence[str] = [fact.prompt.replace("{}", p) for p in others[:_NEIGHBORS]]
        return replace(
            fact,
            target_true=fact.target_true or true,
            relation=relation.name,
            paraphrase_prompts=fact.paraphrase_prompts or tuple(paraphrases),
            neighborhood_prompts=fact.neighborhood_prompts or tuple(neighbors),
        )
