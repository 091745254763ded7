"""One fact to correct: the unit every editor, probe and ledger line refers to."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from errata.edits.check import Check, foreign_characters
from errata.edits.fields import with_place_for
from errata.errors import EditDataError
from errata.joining import JOINS, Join, joint

__all__ = ["Fact"]

_TEXTS = ("paraphrase_prompts", "neighborhood_prompts", "generation_prompts", "reference_texts", "teaching_prompts")
_PROMPTS = ("paraphrase_prompts", "neighborhood_prompts", "generation_prompts", "teaching_prompts")
_LATER = ("checks", "generation_prompts", "reference_texts", "teaching_prompts")


@dataclass(frozen=True, slots=True)
class Fact:
    """State a fact that the model shall hold from now on.

    Args:
        subject: the entity s, as it stands in the prompt ("Danielle Darrieux").
        prompt: the relation's phrasing with `{}` for the subject; the object follows it ("The mother tongue of {} is").
        target_new: the object o* to be learnt, without its leading space.
        target_true: the object o that the model holds now; empty when unknown (then success is not defined, exact is).
        id: unique in its stream; readers of data sets number their records.
        relation: the relation's name or id, for grouping.
        paraphrase_prompts: full texts that ask for the same fact in other words.
        neighborhood_prompts: full texts about other subjects for which `target_true` is right and must stay so.
        checks: questions about what the edit should change elsewhere, and what it should leave alone.
        generation_prompts: texts about the subject that the model is let continue (fluency, consistency).
        reference_texts: what a text about a subject with the new object reads like, for consistency.
        teaching_prompts: full texts that ask for the fact in other words and take part in teaching it; not measured.
        join: what stands between a prompt and its object: " " or "" (nothing), for the prompt, its paraphrases and
            neighbors; "auto": a space, but none where both are in scripts that are written without (Chinese, Japanese,
            Thai and others).
        trimmed: whether white space was taken off the end of a prompt; found out, and in no record.

    Raises:
        EditDataError: when a field is missing or malformed; the message names the record and the field.

    Example:
        >>> Fact(subject="Ada", prompt="{} was born in", target_new="Oslo").text
        'Ada was born in'
    """

    subject: str
    prompt: str
    target_new: str
    target_true: str = ""
    id: str = "0"
    relation: str = ""
    paraphrase_prompts: tuple[str, ...] = field(default=())
    neighborhood_prompts: tuple[str, ...] = field(default=())
    checks: tuple[Check, ...] = field(default=())
    generation_prompts: tuple[str, ...] = field(default=())
    reference_texts: tuple[str, ...] = field(default=())
    teaching_prompts: tuple[str, ...] = field(default=())
    join: Join = "auto"
    trimmed: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("subject", "prompt", "target_new"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise EditDataError(
                    f"fact {self.id!r}: `{name}` is {value!r}, but a non-empty text is needed. "
                    f"Fill it in or drop the record."
                )
        for name in ("target_true", "relation"):
            if not isinstance(value := getattr(self, name), str):
                raise EditDataError(f"fact {self.id!r}: `{name}` is {value!r}, but a text is needed; it may be empty.")
        if self.prompt.count("{}") != 1:
            raise EditDataError(
                f"fact {self.id!r}: the prompt {self.prompt!r} has {self.prompt.count('{}')} `{{}}`, but exactly one "
                f"is needed, where the subject stands. Example: 'The mother tongue of {{}} is'."
            )
        for name in _TEXTS:
            texts = getattr(self, name)
            # A text alone would be taken for a list of its letters.
            if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text.strip() for text in texts):
                raise EditDataError(f"fact {self.id!r}: `{name}` must be a list of non-empty texts, found {texts!r}.")
            object.__setattr__(self, name, tuple(texts))
        if self.join not in JOINS:
            raise EditDataError(
                f'fact {self.id!r}: `join` is {self.join!r}, but " " (a space), "" (nothing) or "auto" is needed.'
            )
        if not isinstance(self.checks, list | tuple) or not all(isinstance(check, Check) for check in self.checks):
            raise EditDataError(f"fact {self.id!r}: `checks` must be a list of `Check`s, found {self.checks!r}.")
        object.__setattr__(self, "checks", tuple(self.checks))
        self._trim()
        for name in ("subject", "prompt", "target_new", "target_true", *_TEXTS):
            if bad := foreign_characters(getattr(self, name)):
                raise EditDataError(
                    f"fact {self.id!r}: `{name}` holds control characters or lone surrogates ({', '.join(bad)}), which "
                    f"no text of a model's training has. Remove them."
                )

    def _trim(self) -> None:
        """Take white space off the ends of prompts: an object brings its own, so it would stand there twice."""
        trimmed = {"prompt": self.prompt.rstrip()}
        # A prompt that ends with its subject ends where that does.
        if trimmed["prompt"].endswith("{}"):
            trimmed["subject"] = self.subject.rstrip()
        found: dict[str, Any] = {**trimmed, **{name: tuple(map(str.rstrip, getattr(self, name))) for name in _PROMPTS}}
        changed = [name for name, value in found.items() if value != getattr(self, name)]
        for name in changed:
            object.__setattr__(self, name, found[name])
        object.__setattr__(
            self, "trimmed", self.trimmed or bool(changed) or any(check.trimmed for check in self.checks)
        )

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.prompt.replace("{}", self.subject)

    @property
    def same_object(self) -> bool:
        """Whether the new object is the true one, so that neither can be preferred to the other."""
        new, true = (unicodedata.normalize("NFC", target.strip()) for target in (self.target_new, self.target_true))
        return new == true

    @property
    def sentence(self) -> str:
        """The prompt with the subject filled in and the new object behind it."""
        return f"{self.text}{joint(self.text, self.target_new, self.join)}{self.target_new}"

    def taught_by(self, paraphrases: int) -> "Fact":
        """Return the fact with its first paraphrases as teaching prompts; those that are left measure.

        A paraphrase that does not hold the subject has no place for δ and teaches nothing: it is left to measure.

        Args:
            paraphrases: how many teaching prompts it is to have, with those that it has already. One paraphrase at
                least is left to measure.
        """
        n = min(paraphrases - len(self.teaching_prompts), len(self.paraphrase_prompts) - 1)
        able = [text for text in self.paraphrase_prompts if with_place_for(self.subject, text) is not None]
        taught = able[: max(n, 0)]
        if not taught:
            return self
        left = tuple(text for text in self.paraphrase_prompts if text not in taught)
        return replace(self, teaching_prompts=(*self.teaching_prompts, *taught), paraphrase_prompts=left)

    @classmethod
    def from_mapping(cls, record: Mapping[str, Any], default_id: str) -> "Fact":
        """Read a fact from a flat record, naming unknown and missing keys."""
        known = set(cls.__slots__) - {"trimmed"}
        unknown = sorted(set(record) - known)
        if unknown:
            raise EditDataError(
                f"record {default_id}: unknown field(s) {', '.join(map(repr, unknown))}; "
                f"a fact has {', '.join(sorted(known))}."
            )
        missing = [k for k in ("subject", "prompt", "target_new") if k not in record]
        if missing:
            raise EditDataError(
                f"record {default_id}: field(s) {', '.join(map(repr, missing))} missing; "
                f"a fact needs at least subject, prompt, target_new."
            )
        values = {"id": default_id, **record}
        if not isinstance(values["id"], str | int) or isinstance(values["id"], bool):
            raise EditDataError(f"record {default_id}: `id` is {values['id']!r}, but a text or a number is needed.")
        values["id"] = str(values["id"])
        checks = values.get("checks", ())
        if not isinstance(checks, list | tuple):
            raise EditDataError(f"record {default_id}: `checks` must be a list of checks, found {checks!r}.")
        values["checks"] = tuple(_check(default_id, i, check) for i, check in enumerate(checks))
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """Return the flat record that `from_mapping` reads; fields that came later are left out where empty."""
        record: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if name == "trimmed" or (name in _LATER and not value) or (name == "join" and value == "auto"):
                continue
            record[name] = list(value) if isinstance(value, tuple) else value
        if self.checks:
            record["checks"] = [check.to_mapping() for check in self.checks]
        return record


def _check(default_id: str, index: int, record: Any) -> Check:
    try:
        return Check.from_mapping(record)
    except EditDataError as e:
        raise EditDataError(f"record {default_id}: `checks`, number {index + 1}: {e}") from e
