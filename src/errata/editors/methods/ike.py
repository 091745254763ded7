"""IKE: tell the new fact in the prompt, behind demonstrations of how such a fact is to be used."""

from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar

from pydantic import Field

from errata.editors.prompt_memory import PromptMemory, PromptMemorySettings
from errata.editors.retrieval import Index
from errata.editors.settings import EditorSettings
from errata.editors.statistics import StatisticsStore
from errata.edits import Fact
from errata.edits.datasets import load_facts
from errata.errors import ConfigError
from errata.joining import joint
from errata.lab.models import LAB_MODELS
from errata.models import EditableModel

__all__ = ["IKE", "DemonstrationSettings", "IKESettings"]


class DemonstrationSettings(EditorSettings):
    """Where demonstrations come from: facts with paraphrases and neighborhoods that are not themselves edited."""

    dataset: str = "auto"
    """A data set's name (`errata datasets`); "auto" draws other edits of a lab model's own world. The paper takes
    CounterFact's records from the 2000th on."""
    path: str | None = None
    """The data set's file, directory or hub name."""
    skip: int = Field(default=0, ge=0)
    """Leave out this many facts at the beginning: those that a run edits."""
    seed: int = 1000
    """Seed of the lab's draw."""
    n: int = Field(default=200, ge=1)
    """How many facts are searched at most."""


class IKESettings(PromptMemorySettings):
    """Settings of IKE. Defaults are those of Zce1112zslx/IKE unless said otherwise."""

    shots: int = Field(default=32, ge=0)
    """Demonstrations at most; fewer where the model's positions do not hold them."""
    demonstrations: DemonstrationSettings = DemonstrationSettings()
    """Where they come from."""
    separator: str = "\n\n"
    """What stands behind a demonstration."""
    copy_last: bool = True
    """Let the new fact's own copy be the last demonstration, as the published code does and the paper does not say."""


_KINDS = ("copy", *["update"] * 3, *["retain"] * 4)


class IKE(PromptMemory):
    """Read C ‖ f ‖ x instead of x: demonstrations C = {c₁ … c_k}, the new fact f, the prompt x (2305.12740, §3).

    Demonstrations are the training facts most like f, nearest last: copies (f ‖ f), updates (f ‖ a paraphrase) and
    retentions (f ‖ a neighbor with its true object), 1 : 3 : 4. The paper edits one fact and knows which; here f is the
    remembered fact most like the prompt, whatever the prompt is.
    """

    name: ClassVar[str] = "ike"
    paper: ClassVar[str] = "2305.12740"
    Settings: ClassVar[type[IKESettings]] = IKESettings
    settings: IKESettings

    def __init__(self, settings: IKESettings) -> None:
        super().__init__(settings)
        self._seed = 0
        self._shown: dict[str, list[Fact]] = {}

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Read the facts that demonstrations are made of.

        Raises:
            ConfigError: when there is no data set to take them from.
        """
        self._seed = rng.getrandbits(48)
        self._pool = self._read(model) if self.settings.shots else []
        self._search = Index([f.text for f in self._pool], self.settings.retrieval, model) if self._pool else None

    def _read(self, model: EditableModel) -> list[Fact]:
        source = self.settings.demonstrations
        if source.dataset == "auto" and model.name not in LAB_MODELS:
            raise ConfigError(
                f"method (ike): demonstrations.dataset is 'auto', but {model.name} is no lab model with a world of its "
                f"own. Name a data set (and its path), or set shots: 0 for none."
            )
        name = "lab" if source.dataset == "auto" else source.dataset
        facts = load_facts(name, source.path, model=model.name, seed=source.seed)[source.skip :]
        return [f for f in facts if f.target_true and f.paraphrase_prompts and f.neighborhood_prompts][: source.n]

    def _before(self, model: EditableModel, text: str) -> str:
        ((fact, _),) = self.retrieve(model, text, 1)
        last = self.told(fact) + self.settings.prompt_line
        if not self.fits(model, last + text):
            return ""
        if self.settings.copy_last and self.settings.shots:
            own = f"{last}{fact.sentence}{self.settings.separator}{last}"
            last = own if self.fits(model, own + text) else last
        for shot in self._demonstrations(model, fact, text):
            if not self.fits(model, shot + last + text):
                break
            last = shot + last
        return last

    def _demonstrations(self, model: EditableModel, fact: Fact, asked: str) -> list[str]:
        """Return demonstrations for a new fact, nearest first; none of them tells what the prompt asks."""
        s = self.settings
        if self._search is None:
            return []
        if fact.text not in self._shown:
            near = [self._pool[i] for i, _ in self._search.search(fact.text, s.shots + len(self._pool) // 4)]
            self._shown[fact.text] = [f for f in near if f.subject != fact.subject]
        rng = Random(f"{self._seed}-{fact.text}")
        kinds = [_KINDS[i % len(_KINDS)] for i in range(s.shots)]
        rng.shuffle(kinds)
        found = []
        for shown, kind in zip(self._shown[fact.text], kinds, strict=False):
            prompt, answer = shown.text, shown.target_new
            if kind == "update":
                prompt = rng.choice(shown.paraphrase_prompts)
            elif kind == "retain":
                prompt, answer = rng.choice(shown.neighborhood_prompts), shown.target_true
            if asked not in (prompt, shown.text):
                found.append(
                    f"{self.told(shown)}{s.prompt_line}{prompt}{joint(prompt, answer, shown.join)}{answer}{s.separator}"
                )
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the facts, and the seed of the demonstrations' kinds."""
        return {**super().state_dict(), "seed": self._seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore facts and seed."""
        super().load_state_dict(state)
        self._seed = state["seed"]
