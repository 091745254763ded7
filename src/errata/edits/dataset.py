"""What every data set of facts declares, and what its reader found."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from errata.edits.fact import Fact
from errata.joining import joint

__all__ = ["DataReport", "DataSet"]


@dataclass(frozen=True)
class DataSet:
    """Declare a data set of facts.

    Args:
        name: what recipes call it.
        summary: one line on what it holds.
        read: returns its facts, given a path (None for its own default), the model's name, a seed, and what receives
            one remark a line on records that are left out.
        sample: one record in the form that the reader expects.
        schema: gives the JSON schema of a record, where there is one.
    """

    name: str
    summary: str
    read: Callable[[str | None, str, int, Callable[[str], None]], list[Fact]]
    sample: Mapping[str, Any]
    schema: Callable[[], Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class DataReport:
    """Count what is unusual in a list of facts; nothing here is an error.

    Args:
        facts: how many.
        duplicates: facts that repeat an earlier one's lower-cased subject, prompt and new object.
        conflicts: facts that give an earlier one's lower-cased subject and prompt another object: the later undoes the
            earlier.
        repeated_subjects: facts whose lower-cased subject came before.
        non_ascii: for each field, facts that hold a character beyond ASCII in it.
        without_true: facts without `target_true`: success against the old object is not defined for them.
        unchanged: facts whose new object is the true one.
        without_paraphrases: facts without paraphrase prompts.
        without_neighborhood: facts without neighborhood prompts.
        unmet: checks that require facts which are not among these.
        trimmed: facts with a prompt from whose end white space was taken off.
        stray: facts with a paraphrase that does not name their subject.
        spaceless: facts whose object follows a prompt without a space, as their script has it.
    """

    facts: int
    duplicates: int
    conflicts: int
    repeated_subjects: int
    non_ascii: Mapping[str, int]
    without_true: int
    unchanged: int
    without_paraphrases: int
    without_neighborhood: int
    unmet: int
    trimmed: int = 0
    stray: int = 0
    spaceless: int = 0

    @classmethod
    def of(cls, facts: Sequence[Fact]) -> "DataReport":
        """Count over the facts."""
        requests = {(f.subject.lower(), f.prompt) for f in facts}
        edits = {(f.subject.lower(), f.prompt, f.target_new.strip()) for f in facts}
        ids = {f.id for f in facts}
        beyond = {
            name: sum(not "".join(getattr(f, name)).isascii() for f in facts)
            for name in ("subject", "prompt", "target_new", "target_true", "paraphrase_prompts", "neighborhood_prompts")
        }
        return cls(
            facts=len(facts),
            duplicates=len(facts) - len(edits),
            conflicts=len(edits) - len(requests),
            repeated_subjects=len(facts) - len({f.subject.lower() for f in facts}),
            non_ascii={name: count for name, count in beyond.items() if count},
            without_true=sum(not f.target_true.strip() for f in facts),
            unchanged=sum(f.same_object for f in facts),
            without_paraphrases=sum(not f.paraphrase_prompts for f in facts),
            without_neighborhood=sum(not f.neighborhood_prompts for f in facts),
            unmet=sum(not ids.issuperset(check.requires) for f in facts for check in f.checks),
            trimmed=sum(f.trimmed for f in facts),
            stray=sum(any(not _names(text, f.subject) for text in f.paraphrase_prompts) for f in facts),
            spaceless=sum(map(_spaceless, facts)),
        )

    def lines(self) -> list[str]:
        """Return one remark a line on what was found; none when nothing is unusual."""
        found = {
            "repeat an earlier fact": self.duplicates,
            "give an earlier subject and prompt another object: the later edit undoes the earlier": self.conflicts,
            "repeat an earlier subject": self.repeated_subjects,
            **{f"hold non-ASCII characters in {name}": count for name, count in self.non_ascii.items()},
            "have no target_true: success is not defined for them, exact match is": self.without_true,
            "ask for the object that is true already: success is not defined for them": self.unchanged,
            "have no paraphrase prompts": self.without_paraphrases,
            "have no neighborhood prompts": self.without_neighborhood,
            "have a paraphrase that does not name the subject: what it asks may be another thing": self.stray,
            "had white space at the end of a prompt, which was taken off: the object brings its own": self.trimmed,
            "have their object right behind a prompt, without a space, as their script is written (the field `join` "
            "of a fact says otherwise)": self.spaceless,
        }
        lines = [f"{count} of {self.facts} facts {what}." for what, count in found.items() if count]
        unmet = f"checks that cannot be asked, as they require facts that this stream does not edit: {self.unmet}."
        return lines + [unmet] * bool(self.unmet)


def _names(text: str, subject: str) -> bool:
    """Say whether a text holds a subject, in any case and any form of its letters."""
    plain = (unicodedata.normalize("NFKC", part).casefold() for part in (subject.strip(), text))
    return next(plain) in next(plain)


def _spaceless(fact: Fact) -> bool:
    """Say whether the script of a fact's texts, and not the fact itself, has an object follow without a space."""
    pairs = [(text, fact.target_new) for text in (fact.text, *fact.paraphrase_prompts)]
    pairs += [(text, fact.target_true) for text in fact.neighborhood_prompts if fact.target_true]
    pairs += [(check.prompt, check.answers[0]) for check in fact.checks]
    return fact.join == "auto" and any(joint(text, target) == "" for text, target in pairs)
