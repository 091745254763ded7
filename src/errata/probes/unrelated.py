"""Unrelated facts: does what nobody edited stay right?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from pydantic import Field

from errata.edits import Fact
from errata.errors import EditDataError
from errata.lab.models import LAB_MODELS, load_world
from errata.models import EditableModel
from errata.probes.base import ProbeSettings, View
from errata.probes.records import read_records, text_field
from errata.probes.rows import Row
from errata.probes.scoring import score

__all__ = ["Unrelated", "UnrelatedSettings"]


class UnrelatedSettings(ProbeSettings):
    """Settings of the unrelated-facts probe."""

    every: int = Field(default=20, ge=1)
    """Measure whenever this many further edits have been made, and at the end."""
    source: str = "auto"
    """Where facts that the model knows come from: "auto" takes a lab model's own world (nothing for other models); else
    a JSON-lines file with `subject`, `prompts` or `prompt` (with `{}` for the subject), `object`, and maybe `relation`,
    as `errata lab export` writes it."""
    n: int = Field(default=300, ge=1)
    """How many facts of either group at most."""
    seed: int = 0
    """Seed of the sample and of each fact's phrasing."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A fact that the model knew before any edit, all its phrasings with the subject filled in."""

    subject: str
    relation: str
    prompts: tuple[str, ...]
    object: str


class Unrelated:
    """Ask for facts that no edit of the run touches: the argmax must be the true object, at every token.

    Rows `unrelated.exact`: a fixed sample of facts about subjects that the run never edits. Rows `same_subject.exact`:
    other facts of the subjects edited so far (at step 0: of those that will be), with the subject's first edit as
    `edit_id`. The prompt itself is the `prompt_id`.
    """

    name: ClassVar[str] = "unrelated"
    Settings: ClassVar[type[ProbeSettings]] = UnrelatedSettings

    def __init__(self, settings: UnrelatedSettings) -> None:
        self.settings = settings
        self._others: list[tuple[str, _Known]] = []
        self._same: list[tuple[str, _Known]] = []

    def prepare(self, model: EditableModel, facts: Sequence[Fact]) -> None:
        """Divide the known facts by the run's subjects, and sample."""
        subjects = {f.subject.lower() for f in facts}
        relations = {(f.subject.lower(), f.relation) for f in facts if f.relation}
        texts = {text for f in facts for text in (f.text, *f.paraphrase_prompts)}
        rng = Random(self.settings.seed)
        known = _load(self.settings.source, model.name)
        asked = [(rng.choice(fact.prompts), fact) for fact in known]
        rng.shuffle(asked)
        self._others = [(p, f) for p, f in asked if f.subject.lower() not in subjects][: self.settings.n]
        self._same = [
            (prompt, fact)
            for prompt, fact in asked
            if fact.subject.lower() in subjects
            and (fact.subject.lower(), fact.relation) not in relations
            and texts.isdisjoint(fact.prompts)
        ]

    def measure(self, view: View) -> Iterator[Row]:
        """Yield the rows of one step."""
        first: dict[str, str] = {}
        for edited in view.edited:
            first.setdefault(edited.subject.lower(), edited.id)
        same = [(p, f) for p, f in self._same if view.step == 0 or f.subject.lower() in first][: self.settings.n]
        for metric, asked in (("unrelated.exact", self._others), ("same_subject.exact", same)):
            scores = score(view.model, [(prompt, fact.object) for prompt, fact in asked])
            for (prompt, fact), found in zip(asked, scores, strict=True):
                edit_id = first.get(fact.subject.lower(), "")
                yield Row(view.step, metric, found.exact, edit_id=edit_id, prompt_id=prompt, logp_true=found.logp)


def _load(source: str, model_name: str) -> list[_Known]:
    if source != "auto":
        return [_read(record, where) for where, record in read_records(source, Unrelated.name)]
    if model_name not in LAB_MODELS:
        return []
    return [
        _Known(f.subject, f.relation, tuple(p.replace("{}", f.subject) for p in f.prompts), f.object)
        for f in load_world(model_name).facts()
    ]


def _read(record: Mapping[str, Any], where: str) -> _Known:
    subject, wanted = text_field(record, "subject", where), text_field(record, "object", where)
    prompts = record["prompts"] if "prompts" in record else [text_field(record, "prompt", where)]
    if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) and "{}" in p for p in prompts):
        raise EditDataError(f"{where}: the prompts are {prompts!r}, but texts with `{{}}` for the subject are needed.")
    return _Known(
        subject, str(record.get("relation", "")), tuple(p.replace("{}", subject).rstrip() for p in prompts), wanted
    )
