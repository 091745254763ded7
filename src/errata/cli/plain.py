"""What JSON and a terminal can take of results: no NaN or infinity there, no character to obey here."""

import math
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["plain", "shown"]

_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]")
"""Control characters, marks that turn the direction of what follows, line separators, halves of a pair."""


def shown(text: str) -> str:
    """Return a text of any content on one line, with nothing in it that a terminal would obey."""
    return _OBEYED.sub("\N{REPLACEMENT CHARACTER}", re.sub(r"[\t\n\r]+", " ", text))


def plain(value: Any) -> Any:
    """Return a value with every number that JSON cannot hold as None."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
