"""Relations: common ones in several wordings, so that a fact that comes with one wording can be taught in others."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Literal

import yaml

from errata.edits.fact import Fact

__all__ = ["WORDINGS", "Relation", "relation_of", "relations", "rewordings", "taught_in_other_words"]

WORDINGS = 4
"""In how many words of its relation a correction is taught, beside its own prompt."""

_TENSES = re.compile(r"\(([^|()]*)\|([^|()]*)\)")
_WORD = re.compile(r"\{\}|[^\W_]+(?:[.'’-][^\W_]+)*\.?")
_END = "$"


@dataclass(frozen=True)
class Relation:
    """State how texts ask for one relation.

    Args:
        name: what it is called.
        cues: words that stand in a prompt of this relation; "{}" is the subject, "$" the prompt's end.
        wordings: prompts with `{}` for the subject; the object follows. "(is|was)" has the present first.
        objects: "year" where the object is a number, "name" where it is none.
    """

    name: str
    cues: tuple[str, ...]
    wordings: tuple[str, ...]
    objects: Literal["name", "year"] = "name"


def relations() -> tuple[Relation, ...]:
    """Return the relations that come with Errata."""
    read = yaml.safe_load((files("errata.edits") / "relations.yaml").read_text(encoding="utf-8"))
    return tuple(
        Relation(name, tuple(known["cues"]), tuple(known["wordings"]), known.get("objects", "name"))
        for name, known in read.items()
    )


def relation_of(fact: Fact, known: Sequence[Relation]) -> Relation | None:
    """Return the relation that a fact's prompt asks for, or none.

    It is the first of the known ones that has a cue in the prompt, as whole words: special relations come before
    general ones. Where the prompt ends with the cue and "of" ("{} is the birthplace of"), it asks the other way round,
    and the cue does not count. An object that is a number asks for a year, any other for none.

    Args:
        fact: the fact.
        known: the relations to choose from.

    Example:
        >>> relation_of(Fact(subject="Ada", prompt="{} was born in", target_new="Oslo"), relations()).name
        'place of birth'
    """
    objects = "year" if fact.target_new.strip().isdigit() else "name"
    words = [*_words(fact.prompt.replace("{}", " {} ")), _END]
    for relation in known:
        if relation.objects == objects and any(_holds(words, cue) for cue in relation.cues):
            return relation
    return None


def rewordings(fact: Fact, known: Sequence[Relation]) -> tuple[str, ...]:
    """Return the fact's prompt in the other words of its relation, the subject filled in; none without a relation.

    They speak of the past where the prompt does: where it has one of the past forms that the known wordings have.

    Args:
        fact: the fact.
        known: the relations to choose from.
    """
    relation = relation_of(fact, known)
    if relation is None:
        return ()
    forms = {past for one in known for wording in one.wordings for _, past in _TENSES.findall(wording)}
    past = not forms.isdisjoint(_words(fact.prompt))
    worded = [_TENSES.sub(lambda found: found[2 if past else 1], wording) for wording in relation.wordings]
    texts = [wording.replace("{}", fact.subject) for wording in worded]
    return tuple(text for text in texts if _words(text) != _words(fact.text))


def taught_in_other_words(facts: Sequence[Fact], n: int) -> list[Fact]:
    """Return facts that are also taught in the words of their relation, as `Fact.teaching_prompts`.

    The facts' own paraphrases are left to measure. A fact without any gets the wordings that are left over, so that
    what is measured has taken no part in teaching.

    Args:
        facts: the facts.
        n: in how many wordings each is taught at most, with the teaching prompts that it has already.
    """
    known = relations()
    return [_taught(fact, rewordings(fact, known), n) for fact in facts]


def _taught(fact: Fact, texts: Sequence[str], n: int) -> Fact:
    had = [_words(text) for text in (*fact.paraphrase_prompts, *fact.teaching_prompts)]
    new = [text for text in texts if _words(text) not in had]
    n = max(n - len(fact.teaching_prompts), 0)
    return replace(
        fact,
        teaching_prompts=(*fact.teaching_prompts, *new[:n]),
        paraphrase_prompts=fact.paraphrase_prompts or tuple(new[n:]),
    )


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _holds(words: Sequence[str], cue: str) -> bool:
    wanted = [*_words(cue), *([_END] if cue.endswith(_END) else [])]
    n = len(wanted)
    places = [at for at in range(len(words)) if list(words[at : at + n]) == wanted]
    return any(list(words[at + n :]) != ["of", _END] for at in places)
