"""The JSON schema of a line of facts: generated from `Fact` and `Check`, with the rules that they check themselves."""

import inspect
import re
from typing import Any

from pydantic import TypeAdapter

from errata.edits.check import FOLLOWS, KEEPS, Check, Query
from errata.edits.fact import Fact

__all__ = ["fact_schema"]

# No control characters but tab and line feed, and no half of a surrogate pair: what `foreign_characters` refuses.
_CLEAN = r"^[^\u0000-\u0008\u000b-\u001f\u007f-\u009f\ud800-\udfff]*$"
_TEXT: dict[str, Any] = {"type": "string", "pattern": _CLEAN}
_NEEDED: dict[str, Any] = {**_TEXT, "allOf": [{"pattern": r"\S"}]}
_PLACE = {"pattern": r"^(?![\s\S]*\{\}[\s\S]*\{\})[\s\S]*\{\}"}
_NAMES = {"type": "array", "items": _NEEDED, "minItems": 1}
_LINES = {"type": "array", "items": _NEEDED}
_QUERY: dict[str, dict[str, Any]] = {
    "prompt": _NEEDED,
    "answers": _NAMES,
    "further": {"type": "array", "items": _NAMES},
}
_RULES: dict[type, dict[str, dict[str, Any]]] = {
    Fact: {
        "subject": _NEEDED,
        "prompt": {**_TEXT, "allOf": [*_NEEDED["allOf"], _PLACE]},
        "target_new": _NEEDED,
        "target_true": _TEXT,
        "id": {"type": ["string", "integer"]},
        "paraphrase_prompts": _LINES,
        "neighborhood_prompts": _LINES,
        "generation_prompts": _LINES,
        "reference_texts": _LINES,
        "teaching_prompts": _LINES,
    },
    Query: _QUERY,
    Check: {**_QUERY, "kind": {"type": "string", "enum": [*FOLLOWS, *KEEPS]}},
}


def fact_schema() -> dict[str, Any]:
    """Return the schema of one record of the data set "jsonl", as JSON Schema 2020-12."""
    schema = TypeAdapter(Fact).json_schema()
    parts: dict[type, dict[str, Any]] = {Fact: schema, Check: schema["$defs"]["Check"], Query: schema["$defs"]["Query"]}
    for cls, part in parts.items():
        meaning = _meanings(cls)
        part["description"] = (inspect.getdoc(cls) or "").splitlines()[0]
        part["additionalProperties"] = False
        del part["properties"]["trimmed"]  # is in no record
        for name, field in part["properties"].items():
            field |= _RULES[cls].get(name, {})
            field["description"] = meaning[name]
            field.pop("title", None)
    parts[Check]["required"] = ["kind", "prompt", "answers"]
    parts[Check]["properties"]["kind"].pop("default")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _meanings(cls: type) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say of each field."""
    found: dict[str, str] = {}
    for base in cls.__mro__:
        arguments = (inspect.cleandoc(base.__doc__ or "")).partition("Args:\n")[2].partition("\n\n")[0]
        for name, text in re.findall(r"^    (\w+): ((?:.|\n {8})*)", arguments, re.MULTILINE):
            found.setdefault(name, " ".join(text.split()))
    return found
