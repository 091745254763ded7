"""Facts of your own: one flat JSON object a line, with the fields of `Fact`."""

from errata.edits.dataset import DataSet
from errata.edits.fact import Fact
from errata.edits.records import records
from errata.errors import EditDataError

__all__ = ["DATASET", "read_jsonl"]


def read_jsonl(path: str | None, model: str = "", seed: int = 0) -> list[Fact]:
    """Read facts from a JSON Lines file; a fact without an id gets its index.

    Args:
        path: the file.
        model: of no effect.
        seed: of no effect.

    Raises:
        EditDataError: when a record is malformed; names file, line and field.
    """
    if not path:
        raise EditDataError("the data set 'jsonl' has no default; name your file: -o edits.path=facts.jsonl")
    facts = []
    for index, (place, record) in enumerate(records(path)):
        try:
            facts.append(Fact.from_mapping(record, str(index)))
        except EditDataError as e:
            raise EditDataError(f"{place}: {e}") from e
    return facts


DATASET = DataSet(
    name="jsonl",
    summary="your own facts, one JSON object a line: subject, prompt, target_new, and what else a fact may have",
    read=read_jsonl,
    sample={
        "subject": "Danielle Darrieux",
        "prompt": "The mother tongue of {} is",
        "target_new": "English",
        "target_true": "French",
        "paraphrase_prompts": ["Danielle Darrieux, a native"],
        "neighborhood_prompts": ["The mother tongue of Michel Rocard is"],
    },
)
