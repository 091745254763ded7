"""Facts of your own: one flat JSON object a line, with the fields of `Fact`; or a CSV table with them as columns."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from errata.edits.dataset import DataSet
from errata.edits.fact import Fact
from errata.edits.records import Refuse, raising, records
from errata.edits.schema import fact_schema
from errata.errors import EditDataError

__all__ = ["DATASET", "read_jsonl", "read_own"]


def read_jsonl(
    path: str | None, model: str = "", seed: int = 0, tell: Callable[[str], None] = lambda message: None
) -> list[Fact]:
    """Read facts from a JSON Lines, JSON or CSV file; a fact without an id gets its number, from 1.

    A cell of a CSV table that begins with "[" holds a JSON list, so that a fact can have several paraphrases or checks.

    Args:
        path: the file, a directory of them, or a hub name.
        model: of no effect.
        seed: of no effect.
        tell: of no effect: a record that is no fact is an error here.

    Raises:
        EditDataError: when a record is malformed; names file, line and field.
    """
    if not path:
        raise EditDataError("the data set 'jsonl' has no default; name your file: -o edits.path=facts.jsonl")
    return read_own(path)


def read_own(path: str, refuse: Refuse = raising, places: dict[str, str] | None = None) -> list[Fact]:
    """Read facts, and say of each malformed record what is wrong with it.

    A line of a run's `quarantine.jsonl` stands for the fact that it holds; a field `target` for `target_new`.

    Args:
        path: the file, a directory of them, or a hub name.
        refuse: receives it, with file, line and field; the record is left out then. Raises it by default.
        places: receives where each fact stands, by its id.
    """
    facts: list[Fact] = []
    taken: set[str] = set()
    for place, record in records(path, refuse):
        number = len(facts) + 1  # the edit's, where all facts of the file are edited
        try:
            fact = Fact.from_mapping(_own(record, path.endswith(".csv")), str(number))
            if fact.id in taken:
                raise EditDataError(f"field 'id': {fact.id!r} is an earlier fact's already; ids must be unique.")
        except EditDataError as e:
            refuse(EditDataError(f"{place}: {_unnumbered(str(e), number)}"))
            continue
        taken.add(fact.id)
        if places is not None:
            places[fact.id] = place
        facts.append(fact)
    return facts


def _unnumbered(error: str, number: int) -> str:
    """Return what is wrong without the fact's number: the line stands before it."""
    return error.removeprefix(f"record {number}: ").removeprefix(f"fact {str(number)!r}: ")


def _own(record: Mapping[str, Any], cells: bool) -> Mapping[str, Any]:
    """Return a line's fact, whether it stands there by itself, as a table's row, or in quarantine."""
    kept = record.get("fact")
    if cells:
        record = _from_cells(record)
    elif isinstance(kept, Mapping) and "reason" in record:
        record = kept
    if "target" in record and "target_new" not in record:
        record = {"target_new" if name == "target" else name: value for name, value in record.items()}
    return record


def _from_cells(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a table's row as a record: lists are read, one text stands for a list of it."""
    record: dict[str, Any] = dict(row)
    for name, cell in row.items():
        if name == "checks" or name.endswith(("_prompts", "_texts")):
            try:
                record[name] = json.loads(cell) if cell.lstrip().startswith("[") else [cell]
            except ValueError as e:
                raise EditDataError(f"column {name!r} holds no JSON list ({e}). Mend or empty it.") from e
    return record


DATASET = DataSet(
    name="jsonl",
    summary="your own facts, one JSON object a line or a CSV table: subject, prompt, target_new and more",
    read=read_jsonl,
    schema=fact_schema,
    sample={
        "subject": "Danielle Darrieux",
        "prompt": "The mother tongue of {} is",
        "target_new": "English",
        "target_true": "French",
        "paraphrase_prompts": ["Danielle Darrieux, a native"],
        "neighborhood_prompts": ["The mother tongue of Michel Rocard is"],
        "checks": [
            {"kind": "specificity", "prompt": "Danielle Darrieux was born in the year", "answers": ["1917"]},
            {"kind": "multi_hop", "prompt": "Danielle Darrieux's mother tongue is spoken in", "answers": ["England"]},
        ],
    },
)
