"""What JSON and a terminal can take of results: no NaN or infinity there, no character to obey here."""

import json
import math
import re
import sys
from collections.abc import Mapping
from typing import Any

import typer

__all__ = ["echo_json", "plain", "remark", "shown"]

_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]")
"""Control characters, marks that turn the direction of what follows, line separators, halves of a pair."""


def shown(text: str) -> str:
    """Return a text of any content on one line, with nothing in it that a terminal would obey."""
    return _OBEYED.sub("\N{REPLACEMENT CHARACTER}", re.sub(r"[\t\n\r]+", " ", text))


def echo_json(value: Any, indent: int | None = None) -> None:
    """Print a value as JSON that is read as text of any script, with what a terminal would obey as escapes."""
    # JSON escapes the first 32 itself; a line feed here is the layout's own.
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    typer.echo(_OBEYED.sub(lambda m: m[0] if m[0] == "\n" else f"\\u{ord(m[0]):04x}", text))


def remark(text: str) -> None:
    """Say something beside the result: on standard error."""
    sys.stderr.write(f"{shown(text)}\n")


def plain(value: Any) -> Any:
    """Return a value with every number that JSON cannot hold as None."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
