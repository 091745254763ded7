"""SCR: look an edited fact up by similarity, confirm that it is asked for, and tell it before the prompt."""

from typing import ClassVar, Literal

import torch
from pydantic import Field

from errata.editors.prompt_memory import PromptMemory, PromptMemorySettings
from errata.edits import Fact
from errata.edits.fields import names
from errata.models import EditableModel

__all__ = ["SCR", "SCRSettings"]


class SCRSettings(PromptMemorySettings):
    """Settings of SCR. The paper's are for instruction-tuned models of 7B and more; these are for any."""

    k: int = Field(default=1, ge=1)
    """How many of the most similar facts are told at most."""
    threshold: float = Field(default=0.5, ge=-1, le=1)
    """The least similarity at which a fact counts as asked for: the semantic filter."""
    confirm: Literal["none", "subject", "model"] = "subject"
    """What confirms that a fact is asked for. "model": the model itself, asked by `question`, prefers " yes" to " no",
    as the paper has it. "subject": the prompt names the fact's subject, for models that follow no instructions."""
    question: str = "Fact: {fact}\nQuestion: {prompt}\nDoes the fact help to answer the question, yes or no?\nAnswer:"
    """How the model is asked."""


class SCR(PromptMemory):
    """Answer P(o | f ‖ x) with f = argmax sim(x, fᵢ) where sim ≥ τ and f is confirmed, else P(o | x) (2503.05212, §4).

    The baseline that weight editing must beat: nothing is trained, and a prompt that asks for no edited fact is read as
    by the unedited model, to the bit.
    """

    name: ClassVar[str] = "scr"
    paper: ClassVar[str] = "2503.05212"
    Settings: ClassVar[type[SCRSettings]] = SCRSettings
    settings: SCRSettings

    def _before(self, model: EditableModel, text: str) -> str:
        s = self.settings
        found = [f for f, similarity in self.retrieve(model, text, s.k) if similarity >= s.threshold]
        told = ""
        # The most similar fact stands nearest to the prompt, and is the last to be left out for want of room.
        for fact in found:
            longer = self.told(fact) + told
            if self._confirmed(model, fact, text) and self.fits(model, longer + s.prompt_line + text):
                told = longer
        return told + s.prompt_line if told else ""

    @torch.no_grad()
    def _confirmed(self, model: EditableModel, fact: Fact, text: str) -> bool:
        if self.settings.confirm == "subject":
            return names(text, [fact.subject])
        if self.settings.confirm == "none":
            return True
        told = fact.sentence
        with model.bare():
            (ids,) = model.encode([self.settings.question.replace("{fact}", told).replace("{prompt}", text)])
            yes, no = (model.encode_target(word)[0] for word in ("yes", "no"))
        asked = torch.tensor([ids], device=model.device)
        logits = model.model(input_ids=asked, use_cache=False, logits_to_keep=1).logits[0, -1]
        return bool(logits[yes] > logits[no])
