"""CounterFact (2202.05262 §3.4): counterfactual statements with paraphrases and neighborhoods.

Read from the original `counterfact.json` (kmeng01/rome), from JSON Lines of the same nesting, where pooled neighborhood
prompts may stand beside the record's own, and from the hub form `azhx/counterfact`, whose splits are put back into the
order of case ids.
"""

from collections.abc import Mapping
from typing import Any

from errata.edits.dataset import DataSet
from errata.edits.fact import Fact
from errata.edits.records import records
from errata.errors import EditDataError

__all__ = ["DATASET", "read_counterfact"]

_HUB_NAME = "azhx/counterfact"


def read_counterfact(path: str | None = None, model: str = "", seed: int = 0) -> list[Fact]:
    """Read CounterFact; a fact's id is its case id.

    Args:
        path: a local file or a hub name; the hub's form when None.
        model: of no effect.
        seed: of no effect.

    Raises:
        EditDataError: when a record lacks a field or holds another type; names file, line and field.
    """
    facts = [_fact(place, record) for place, record in records(path or _HUB_NAME)]
    if all(fact.id.isdecimal() for fact in facts):
        facts.sort(key=lambda fact: int(fact.id))
    return facts


def _fact(place: str, record: Mapping[str, Any]) -> Fact:
    request = _field(place, record, "requested_rewrite", Mapping)
    target_new, target_true = (
        _field(place, _field(place, request, key, Mapping), "str", str) for key in ("target_new", "target_true")
    )
    neighborhood = _prompts(place, record, "neighborhood_prompts")
    try:
        return Fact(
            subject=_field(place, request, "subject", str),
            prompt=_field(place, request, "prompt", str),
            target_new=target_new,
            target_true=target_true,
            id=str(_field(place, record, "case_id", (int, str))),
            relation=str(request.get("relation_id") or ""),
            paraphrase_prompts=_prompts(place, record, "paraphrase_prompts"),
            neighborhood_prompts=neighborhood + _prompts(place, record, "neighborhood_prompts_pooled"),
        )
    except EditDataError as e:
        raise e if str(e).startswith(place) else EditDataError(f"{place}: {e}") from e


def _field(place: str, record: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    if name not in record:
        raise EditDataError(
            f"{place}: field {name!r} is missing; CounterFact has case_id, requested_rewrite {{prompt, subject, "
            f"target_new.str, target_true.str}}, paraphrase_prompts, neighborhood_prompts."
        )
    if not isinstance(record[name], kind):
        raise EditDataError(f"{place}: field {name!r} holds {record[name]!r}, which is not what CounterFact has there.")
    return record[name]


def _prompts(place: str, record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = record.get(name) or []
    if not isinstance(found, list) or not all(isinstance(p, str) for p in found):
        raise EditDataError(f"{place}: field {name!r} must be a list of texts, found {found!r}.")
    return tuple(p for p in found if p.strip())


DATASET = DataSet(
    name="counterfact",
    summary="CounterFact: 21,919 counterfactual statements (a local file in the original nesting, or azhx/counterfact)",
    read=read_counterfact,
    sample={
        "case_id": 0,
        "requested_rewrite": {
            "prompt": "The mother tongue of {} is",
            "relation_id": "P103",
            "subject": "Danielle Darrieux",
            "target_new": {"str": "English"},
            "target_true": {"str": "French"},
        },
        "paraphrase_prompts": ["Where Danielle Darrieux is from, people speak the language of"],
        "neighborhood_prompts": ["Michel Rocard is a native speaker of"],
    },
)
