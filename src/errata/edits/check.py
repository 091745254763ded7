"""What an edit should change elsewhere, and what it should leave alone: questions that come with a fact."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from errata.errors import EditDataError

__all__ = ["FOLLOWS", "KEEPS", "Check", "Query", "foreign_characters"]

FOLLOWS: dict[str, str] = {
    "alias": "the same fact, asked by another name of its subject (RippleEdits: Subject Aliasing)",
    "one_hop": "a question that the new fact alone answers, worded as a question (MQuAKE: single hops)",
    "multi_hop": "a chain of facts, one or more of which were edited (MQuAKE: multi-hop questions)",
    "composition_1": "the new object's own fact, asked through the subject (RippleEdits: Compositionality I)",
    "composition_2": "the subject reached through another entity (RippleEdits: Compositionality II)",
    "logical": "a fact that follows by the relation's logic (RippleEdits: Logical Generalization)",
    "reverse": "the same fact asked from its object (KnowEdit: reversed relation)",
    "portability": "reasoning over the new fact, of no nearer kind (EasyEdit and KnowEdit: portability, reasoning)",
    "persona": "the same question in the words of a person of a certain manner (WikiBigEdit: personas)",
}
"""Kinds of checks whose answer the edit should bring about."""
KEEPS: dict[str, str] = {
    "specificity": "another fact of the same subject (RippleEdits: Relation Specificity)",
    "preservation": "further objects of the same subject and relation (RippleEdits: Forgetfulness, Preservation)",
    "locality": "an unrelated question (zsRE, KnowEdit, WikiBigEdit: locality)",
}
"""Kinds of checks whose answer the edit should leave as it was."""


@dataclass(frozen=True, slots=True)
class Query:
    """Ask one thing.

    Args:
        prompt: the full text that the answer follows.
        answers: acceptable answers, aliases included; the first is the one that teacher forcing scores.
        further: objects that have to be named as well, each by one of its names (RippleEdits' lists: all siblings).
        trimmed: whether white space was taken off the end of the prompt; found out, and in no record.

    Raises:
        EditDataError: when a field is malformed; the message names it.
    """

    prompt: str
    answers: tuple[str, ...]
    further: tuple[tuple[str, ...], ...] = ()
    trimmed: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _need_text("prompt", self.prompt)
        object.__setattr__(self, "trimmed", self.trimmed or self.prompt != self.prompt.rstrip())
        object.__setattr__(self, "prompt", self.prompt.rstrip())
        for name, texts in (("answers", self.answers), *(("further", names) for names in self.further)):
            if not isinstance(texts, tuple) or not texts:
                raise EditDataError(f"`{name}` is {texts!r}, but a list of at least one answer is needed.")
            for text in texts:
                _need_text(name, text)

    @property
    def wanted(self) -> tuple[tuple[str, ...], ...]:
        """Every object that has to be named, each with its acceptable names."""
        return (self.answers, *self.further)


@dataclass(frozen=True, slots=True)
class Check(Query):
    """Ask what an edit should have changed elsewhere, or should have left alone.

    Args:
        kind: one of `FOLLOWS` (the edit brings the answer about) or `KEEPS` (the edit leaves it as it was).
        conditions: what the model has to know before the edit for the check to count (RippleEdits' conditions).
        group: checks of one fact that share a non-empty group are one test, passed when any of them is (MQuAKE's three
            wordings of a question).
        requires: ids of other facts of the stream that have to be edited as well for the answer to be right.

    Example:
        >>> Check(kind="alias", prompt="The birth town of A. Lovelace is", answers=("Oslo",)).follows
        True
    """

    # A default only because the fields of a query stand before it; an empty kind is refused.
    kind: str = ""
    conditions: tuple[Query, ...] = ()
    group: str = ""
    requires: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Not super(): a dataclass with slots is another class than the one that this body closes over.
        Query.__post_init__(self)
        if not isinstance(self.kind, str) or self.kind not in {**FOLLOWS, **KEEPS}:
            raise EditDataError(f"`kind` is {self.kind!r}; known kinds: {', '.join((*FOLLOWS, *KEEPS))}.")

    @property
    def follows(self) -> bool:
        """Whether the edit should bring the answer about; otherwise it should leave it as it was."""
        return self.kind in FOLLOWS

    @classmethod
    def from_mapping(cls, record: Mapping[str, Any]) -> "Check":
        """Read a check from a record, naming the field that is malformed."""
        values = _values(record, ("kind", "prompt", "answers", "further", "conditions", "group", "requires"))
        conditions = values.pop("conditions", ())
        if not isinstance(conditions, list | tuple):
            raise EditDataError(f"`conditions` is {conditions!r}, but a list of {{prompt, answers}} is needed.")
        if not isinstance(values.get("group", ""), str):
            raise EditDataError(f"`group` is {values['group']!r}, but a text is needed.")
        read = tuple(Query(**_values(condition, ("prompt", "answers", "further"))) for condition in conditions)
        return cls(**values, conditions=read)

    def to_mapping(self) -> dict[str, Any]:
        """Return the record that `from_mapping` reads; empty fields are left out."""
        record: dict[str, Any] = {"kind": self.kind, **_record(self)}
        if self.conditions:
            record["conditions"] = [_record(query) for query in self.conditions]
        if self.group:
            record["group"] = self.group
        if self.requires:
            record["requires"] = list(self.requires)
        return record


def _record(query: Query) -> dict[str, Any]:
    record: dict[str, Any] = {"prompt": query.prompt, "answers": list(query.answers)}
    return {**record, "further": [list(names) for names in query.further]} if query.further else record


def _values(record: Any, known: tuple[str, ...]) -> dict[str, Any]:
    """Return a record's fields with lists as tuples, once its keys are known and the needed ones are there."""
    if not isinstance(record, Mapping):
        raise EditDataError(f"{record!r} is no JSON object with {', '.join(known)}.")
    if unknown := sorted(set(record) - set(known)):
        raise EditDataError(f"unknown field(s) {', '.join(map(repr, unknown))}; known are {', '.join(known)}.")
    if missing := [name for name in ("kind", "prompt", "answers") if name in known and name not in record]:
        raise EditDataError(f"field(s) {', '.join(map(repr, missing))} missing.")
    values = dict(record)
    for name in ("answers", "requires"):
        if name in values:
            values[name] = _texts(name, values[name])
    if "further" in values:
        if not isinstance(values["further"], list | tuple):
            raise EditDataError(f"`further` is {values['further']!r}, but a list of lists of texts is needed.")
        values["further"] = tuple(_texts("further", names) for names in values["further"])
    return values


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise EditDataError(f"`{name}` is {value!r}, but a list of texts is needed.")
    return tuple(value)


def _need_text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise EditDataError(f"`{name}` is {value!r}, but a non-empty text is needed.")
    if bad := foreign_characters(value):
        raise EditDataError(
            f"`{name}` holds control characters or lone surrogates ({', '.join(bad)}), which no text of a model's "
            f"training has. Remove them."
        )


def foreign_characters(text: str | tuple[str, ...]) -> list[str]:
    """Return the code points that no model's training text has: control characters, and halves of a pair."""
    found = {c for part in (text if isinstance(text, tuple) else (text,)) for c in part}
    return sorted(f"U+{ord(c):04X}" for c in found if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t")
