"""MeLLo: take a question apart, and let the model compare each of its answers with a remembered fact."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from transformers import DynamicCache

from errata.editors.prompt_memory import PromptMemory, PromptMemorySettings
from errata.editors.update import Update
from errata.errors import ConfigError
from errata.files import read_text
from errata.joining import joint
from errata.models import EditableModel
from errata.models.hooks import cache_to

__all__ = ["MeLLo", "MeLLoSettings"]

_ASK, _FACT, _FINAL = "Subquestion:", "Retrieved fact:", "Final answer:"


class MeLLoSettings(PromptMemorySettings):
    """Settings of MeLLo. Defaults are those of princeton-nlp/MQuAKE unless said otherwise."""

    template: str = ""
    """A text file with worked questions, in the form of `editors/templates/mello.txt`; empty: that file. The published
    one is MQuAKE's `prompts/MeLLo-prompt.txt`."""
    hops: int = Field(default=4, ge=1)
    """Subquestions at most."""
    new_tokens: int = Field(default=64, ge=1)
    """Tokens generated for a subquestion and its answer at most. 256 with the published API model."""


class MeLLo(PromptMemory):
    """Decompose, answer, retrieve, compare: remembered facts may overrule its answers to subquestions (2305.14795, §5).

    The model writes a subquestion and a tentative answer, the remembered fact most like the subquestion is put behind
    it, and the model keeps its answer or takes the fact's.

    Made for questions of several hops and for models that follow worked examples. The final answer stands before the
    prompt when a text is read; `answer` returns it. A model that does not keep to the form answers unaided.
    """

    name: ClassVar[str] = "mello"
    paper: ClassVar[str] = "2305.14795"
    Settings: ClassVar[type[MeLLoSettings]] = MeLLoSettings
    settings: MeLLoSettings

    def __init__(self, settings: MeLLoSettings) -> None:
        super().__init__(settings)
        self._answers: dict[str, str | None] = {}
        own = files("errata.editors") / "templates" / "mello.txt"
        given = read_text(Path(settings.template), ConfigError, "method.template") if settings.template else ""
        self._worked = (given or own.read_text(encoding="utf-8")).strip()

    def _before(self, model: EditableModel, text: str) -> str:
        answer = self.answer(model, text)
        if not answer:
            return ""
        stated = f"{text}{joint(text, answer)}{answer}"
        told = f"{self.settings.fact_line.replace('{}', stated)}{self.settings.prompt_line}"
        return told if self.fits(model, told + text) else ""

    def answer(self, model: EditableModel, question: str) -> str | None:
        """Return the final answer; None where the model does not come to one."""
        if question not in self._answers:
            with model.bare():
                self._answers[question] = self._reason(model, question)
        return self._answers[question]

    def _reason(self, model: EditableModel, question: str) -> str | None:
        transcript = f"{self._worked}\n\nQuestion: {question}\n"
        for _ in range(self.settings.hops):
            said = self._say(model, transcript)
            lines = said.strip().split("\n")
            final = [line.removeprefix(_FINAL).strip() for line in lines if line.startswith(_FINAL)]
            if final:
                return final[0].rstrip(".") or None
            asked = [line.removeprefix(_ASK).strip() for line in lines if line.startswith(_ASK)]
            if len(lines) < 2 or not asked:
                return None
            ((fact, _),) = self.retrieve(model, asked[-1], 1)
            transcript += f"{said.rstrip()}\n{_FACT} {fact.sentence}.\n"
        return None

    @torch.no_grad()
    def _say(self, model: EditableModel, transcript: str) -> str:
        """Continue a transcript greedily up to where a fact is to be retrieved or the question is answered."""
        (ids,) = model.encode([transcript])
        room = min(self.settings.new_tokens, model.positions - len(ids))
        said: list[int] = []
        given, cache = torch.tensor([ids], device=model.device), cache_to(model.model, DynamicCache())
        while len(said) < room:
            logits = model.model(input_ids=given, **cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            token = int(logits.argmax())
            if token == model.tokenizer.eos_token_id or bool(logits.isnan().any()):
                break
            said.append(token)
            text = str(model.tokenizer.decode(said))
            if _FACT in text or "\n\n" in text.lstrip():
                break
            given = torch.tensor([[token]], device=model.device)
        return str(model.tokenizer.decode(said)).lstrip().split(_FACT)[0].split("\n\n")[0]

    def remember(self, update: Update) -> None:
        """Add the facts; what has been answered before is asked anew."""
        super().remember(update)
        self._answers = {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the facts."""
        super().load_state_dict(state)
        self._answers = {}
