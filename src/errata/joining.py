"""How a text goes on: with a space before what follows, or without one where the script is written without spaces."""

import unicodedata
from typing import Literal

__all__ = ["JOINS", "Join", "joint", "spaceless"]

Join = Literal["auto", "", " "]
"""What stands between a prompt and its object; "auto": what their scripts say."""
JOINS: tuple[Join, ...] = ("auto", "", " ")

# How the Unicode names of their letters, vowel signs and marks begin. Korean puts spaces between words.
_WITHOUT_SPACES = (
    "CJK ", "IDEOGRAPHIC ", "HIRAGANA ", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO ", "VERTICAL KANA ", "NUSHU ",
    "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ", "TAI ", "NEW TAI LUE ", "JAVANESE ", "BALINESE ", "SUNDANESE ",
)  # fmt: skip
# Every other script, named or not, has spaces or another sign between words.


def joint(before: str, after: str, join: Join = "auto") -> Literal["", " "]:
    """Return what stands between a text and what follows it: a space, or nothing.

    Nothing where both are in scripts that are written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese,
    Tibetan and others). The last letter before and the first one after decide; where what follows has no letter (a
    number, say), the one before does.

    Args:
        before: the text so far.
        after: what follows.
        join: a fact's own word on it, which comes first.

    Example:
        >>> joint("The capital of Japan is", "東京"), joint("日本の首都は", "東京")
        (' ', '')
    """
    if join != "auto":
        return join
    last = next(filter(None, map(_kind, reversed(before))), "")
    first = next(filter(None, map(_kind, after)), last)
    return "" if last == first == "spaceless" else " "


def spaceless(character: str) -> bool:
    """Say whether a character belongs to a script that is written without spaces between words."""
    return _kind(character) == "spaceless"


def _kind(character: str) -> str:
    """Return "spaceless", "spaced", or "" for a character that goes with any script."""
    if unicodedata.name(character, "").startswith(_WITHOUT_SPACES):
        return "spaceless"
    category = unicodedata.category(character)
    if category[0] in "PS" and unicodedata.east_asian_width(character) in "WF":
        return "spaceless"  # 「, ：, ！ and the like
    return "spaced" if category[0] in "LM" else ""
