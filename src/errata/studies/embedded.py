"""Refuse facts whose words a model has no embedding for, before anything is edited or measured."""

from collections.abc import Sequence

from errata.edits import Fact
from errata.errors import EditDataError
from errata.models import EditableModel

__all__ = ["check_embedded", "check_stream"]

_SHOWN = 20


def check_embedded(model: EditableModel, fact: Fact) -> None:
    """Refuse a fact one of whose texts holds a token without an embedding.

    Raises:
        EditDataError: when one does; names text and token.
    """
    if not model.without_embedding:
        return
    prompts = [fact.text, *fact.paraphrase_prompts, *fact.neighborhood_prompts, *fact.generation_prompts]
    objects = [(text, fact.text, fact.join) for text in (fact.target_new, fact.target_true) if text]
    for check in fact.checks:
        for query in (check, *check.conditions):
            prompts.append(query.prompt)
            objects += [(name, query.prompt, "auto") for names in query.wanted for name in names]
    with model.bare():
        model.encode(prompts)
        for text, prompt, join in objects:
            model.encode_target(text, prompt, join)


def check_stream(model: EditableModel, facts: Sequence[Fact]) -> None:
    """Refuse facts all together where texts of some hold tokens without an embedding.

    Raises:
        EditDataError: names each fact.
    """
    found = []
    for fact in facts if model.without_embedding else ():
        try:
            check_embedded(model, fact)
        except EditDataError as e:
            found.append(f"fact {fact.id!r} ({fact.subject[:40]}): {e}")
    if found:
        more = f"\n... and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        listed = "\n".join(found[:_SHOWN])
        raise EditDataError(f"{listed}{more}\n{len(found)} of {len(facts)} facts cannot be edited; nothing was.")
