"""Worlds from facts of your own: what is true is read from a file instead of drawn."""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from errata.edits.records import local_records
from errata.errors import EditDataError
from errata.lab.vocabulary import Relation
from errata.lab.world import LabFact, World

if TYPE_CHECKING:
    from errata.models import EditableModel

__all__ = ["facts_recall", "read_facts", "write_facts", "world_of"]


def read_facts(file: Path) -> list[LabFact]:
    """Read facts as `errata lab export` and `errata lab facts` write them, a JSON object a line.

    Args:
        file: with `subject`, `relation`, `prompts` (each with one `{}`) and `object` in each line.

    Raises:
        EditDataError: when a line lacks a field or holds another type; names file, line and field.
    """
    if not file.is_file():
        raise EditDataError(f"there is no file {file}; --facts is a .jsonl file, which `errata lab facts` writes.")
    return [_fact(place, record) for place, record in local_records(file)]


def _fact(place: str, record: Any) -> LabFact:
    for name in ("subject", "relation", "object"):
        if not isinstance(record.get(name), str) or not record[name].strip():
            raise EditDataError(f"{place}: `{name}` is {record.get(name)!r}, but a non-empty text is needed.")
    prompts = record.get("prompts")
    if (
        not isinstance(prompts, list)
        or not prompts
        or not all(isinstance(prompt, str) and prompt.count("{}") == 1 for prompt in prompts)
    ):
        raise EditDataError(
            f"{place}: `prompts` is {prompts!r}, but a list of texts with one {{}} for the subject is needed."
        )
    return LabFact(
        record["subject"].strip(), record["relation"], tuple(map(str.rstrip, prompts)), record["object"].strip()
    )


def write_facts(file: Path, facts: Sequence[LabFact]) -> None:
    """Write facts as `read_facts` reads them.

    Args:
        file: overwritten.
        facts: what to write.
    """
    lines = [
        {"subject": f.subject, "relation": f.relation, "prompts": list(f.prompts), "object": f.object} for f in facts
    ]
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def world_of(facts: Sequence[LabFact]) -> World:
    """Make a world in which the facts are true; a relation is told in every phrasing that any of its facts has.

    Args:
        facts: at least one.

    Raises:
        EditDataError: when there is none, or two give a subject different objects of one relation.
    """
    if not facts:
        raise EditDataError("the file of facts is empty; at least one fact is needed.")
    truth: dict[tuple[str, str], str] = {}
    for fact in facts:
        if truth.setdefault((fact.subject, fact.relation), fact.object) != fact.object:
            raise EditDataError(
                f"{fact.subject!r} has two objects of the relation {fact.relation!r}: "
                f"{truth[fact.subject, fact.relation]!r} and {fact.object!r}. Keep one."
            )
    relations = tuple(
        Relation(
            name,
            tuple(dict.fromkeys(prompt for f in facts if f.relation == name for prompt in f.prompts)),
            tuple(dict.fromkeys(f.object for f in facts if f.relation == name)),
        )
        for name in dict.fromkeys(f.relation for f in facts)
    )
    people = list(dict.fromkeys(f.subject for f in facts))
    # Training begins with the first few; a file sorted by relation would show it one relation only.
    Random(0).shuffle(people)
    return World(tuple(people), relations, truth, seed=0)


def facts_recall(model: "EditableModel", facts: Sequence[LabFact]) -> dict[str, float]:
    """Measure what a model recalls: every token of the object the most probable one.

    Args:
        model: any.
        facts: what is asked, in all phrasings.

    Returns:
        Shares: of prompts answered (`prompts`), of facts answered in at least two phrasings (`two_phrasings`; in its
        only one, where a fact has one), in all (`all_phrasings`).
    """
    from errata.probes.scoring import score

    asked = [(n, prompt.replace("{}", f.subject), f.object) for n, f in enumerate(facts) for prompt in f.prompts]
    right = [0] * len(facts)
    for (n, _, _), found in zip(asked, score(model, [(prompt, wanted) for _, prompt, wanted in asked]), strict=True):
        right[n] += found.exact == 1
    return {
        "facts": float(len(facts)),
        "prompts": sum(right) / len(asked),
        "two_phrasings": sum(r >= min(2, len(f.prompts)) for r, f in zip(right, facts, strict=True)) / len(facts),
        "all_phrasings": sum(r == len(f.prompts) for r, f in zip(right, facts, strict=True)) / len(facts),
    }
