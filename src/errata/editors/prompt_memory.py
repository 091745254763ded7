"""What methods share that put remembered facts into the prompt instead of changing a weight."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor

from errata.editors.base import Editor
from errata.editors.retrieval import Index, RetrievalSettings
from errata.editors.settings import EditorSettings
from errata.editors.update import Update
from errata.edits import Fact
from errata.models import EditableModel

__all__ = ["PromptMemory", "PromptMemorySettings"]


class PromptMemorySettings(EditorSettings):
    """What in-context methods have in common."""

    retrieval: RetrievalSettings = RetrievalSettings()
    """How the facts that a prompt asks for are found."""
    fact_line: str = Field(default="New Fact: {}\n", pattern=r"\{\}")
    """How a fact is told; `{}` is its prompt with the new object. Zce1112zslx/IKE."""
    prompt_line: str = "Prompt: "
    """What stands before the prompt itself. Zce1112zslx/IKE."""
    room: int = Field(default=16, ge=1)
    """Tokens left free behind the prompt, for the answer: what is put before it never takes more of the model's
    positions."""


class PromptMemory(Editor):
    """Remember facts as texts, and put those that a prompt asks for before it; subclasses say which, in `_before`."""

    settings: PromptMemorySettings

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self._facts: dict[str, Fact] = {}
        self._index: Index | None = None

    def _before(self, model: EditableModel, text: str) -> str:
        """Return what to put before a text, with at least one fact remembered."""
        raise NotImplementedError

    def attach(self, model: EditableModel) -> Callable[[], None]:
        """Let every text be read behind what is remembered."""
        earlier = model.preface

        def preface(text: str) -> str:
            own = self._before(model, text) if self._facts else ""
            # Of two memories on one model the later answers, and where it has nothing to say, the earlier.
            return own or (earlier(text) if earlier else "")

        model.preface = preface

        def detach() -> None:
            model.preface = earlier

        return detach

    def propose(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return the facts, to be remembered."""
        return Update({}, {}, {"facts": _packed(batch)})

    def remember(self, update: Update) -> None:
        """Add the facts; one that a later fact of the same prompt contradicts gives way to it."""
        for fact in _unpacked(update.memory["facts"]):
            self._facts.pop(fact.text, None)
            self._facts[fact.text] = fact
        self._index = None

    def retrieve(self, model: EditableModel, text: str, k: int) -> list[tuple[Fact, float]]:
        """Return the k remembered facts most like a text, each with its similarity, best first."""
        facts = list(self._facts.values())
        if self._index is None:
            self._index = Index([f.sentence for f in facts], self.settings.retrieval, model)
        return [(facts[i], similarity) for i, similarity in self._index.search(text, k)]

    def told(self, fact: Fact) -> str:
        """Return a fact as it is told in the prompt."""
        return self.settings.fact_line.replace("{}", fact.sentence)

    def fits(self, model: EditableModel, text: str) -> bool:
        """Return whether a text leaves room for an answer."""
        (ids,) = model.encode_whole([text])
        return len(ids) + self.settings.room <= model.positions

    def state_dict(self) -> dict[str, Any]:
        """Return the facts."""
        return {"facts": [fact.to_mapping() for fact in self._facts.values()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the facts."""
        facts = [Fact.from_mapping(record, str(i)) for i, record in enumerate(state["facts"])]
        self._facts = {fact.text: fact for fact in facts}
        self._index = None


def _packed(facts: Sequence[Fact]) -> UInt8[Tensor, " bytes"]:
    # Without the prompts by which an edit is tested: what is remembered is what is told.
    told = [Fact(f.subject, f.prompt, f.target_new, id=f.id, relation=f.relation, join=f.join) for f in facts]
    text = json.dumps([fact.to_mapping() for fact in told], ensure_ascii=False)
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _unpacked(tensor: UInt8[Tensor, " bytes"]) -> list[Fact]:
    return [Fact.from_mapping(r, str(i)) for i, r in enumerate(json.loads(bytes(tensor.tolist())))]
