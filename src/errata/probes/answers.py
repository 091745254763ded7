"""Whether a freely generated text is an answer: exact match after normalising, at the text's own natural stop."""

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence

from errata.joining import spaceless

__all__ = ["contained", "match", "normalised"]

_STOP = re.compile(r"""[.!?](?=["'”’»)\]]*(?:\s|$))|[。！？｡।॥؟۔።။]|\n""")

# One sign for what is written with several; before NFKC, which makes a blank and an accent of ´, and "TM" of ™.
_SIGNS = str.maketrans(
    dict.fromkeys("’‘ʼʻ′´`＇", "'")
    | dict.fromkeys("‐‑‒–−﹣－", "-")
    | dict.fromkeys("—™℠", " ")
    | {"♯": "#", "٫": ".", "٬": ","}
)
_POWER = re.compile(r"(?<=[\d)])(?=[⁰¹²³⁴⁵⁶⁷⁸⁹⁻])")
_FRACTION = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_CURRENCY = "$¢£¤¥֏؋฿៛₠-⃀"

# How whole numbers are grouped: 1,987 1 987 1'987; 1,00,000; 1.987.654 (1.987 alone is less than two).
_GROUPED = re.compile(
    r"""(?<![\d.,])[1-9](?:\d{0,2}([,' ])\d{3}(?:\1\d{3})*(?!\d|[,']\d)
    |\d?(?:,\d{2})+,\d{3}(?![.,]?\d)
    |\d{0,2}(?:\.\d{3}){2,}(?![.,]?\d))""",
    re.VERBOSE,
)
# 3,14 and 1.987,5: where a comma begins the fraction.
_COMMA = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+|\d+),(\d+)(?![.,]?\d)")
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?<![\w.])\.(?=\d)"), "0."),
    (re.compile(r"\bminus (?=\d)"), "-"),
    (re.compile(r"(?<=\d)\s*(?:%|percent\b|per cent\b)"), " %"),
    (re.compile(rf"(?<!\w)([{_CURRENCY}])\s*(\d[\d.]*\d|\d)"), r"\2 \1"),
    (re.compile(rf"(?<=\d)\s*(?=[{_CURRENCY}])"), " "),
    (re.compile(r"(?<=\s)&(?=\s)"), "and"),
    # An article stands before a word; "a" is one at the beginning alone: elsewhere it may be a name (vitamin A).
    (re.compile(r"(?<![\w.'-])(?:the|an)(?=\s+[^\w\s]*\w)|^\W*an?(?=\s+[^\w\s]*\w)"), " "),
)
_TELLING = re.compile(
    rf"""
      (?<![^\W_])(?<![)\]])-(?=[{_CURRENCY}]?\d)                    # -5
    | (?<=[^\W\d_])\+(?=\d)                                         # UTC+5
    | (?<=[^\W_])(?:\++(?!\w|\+)|\#(?!\w|\#)|-(?![\w-]))            # C++, A+; C#; A-
    | (?<=\d)\.(?=\d)                                               # 3.14
    | (?<![^\s("'*_\[])\.(?=[^\W\d_])                               # .NET
    | (?<=\d\ )%
    | (?<![-=\w])[<>](?=\d)
    | [{_CURRENCY}±∓≤≥≠√∛∞‰♭♮]
    """,
    re.VERBOSE,
)
"""Signs without which another answer would stand there."""
_INSIDE = re.compile(r"(?<=[^\W\d_])[.'・-](?=[^\W_])|(?<=\d)[.'-](?=[^\W\d_])")
"""Signs inside a word that some write and some leave out: U.S., O'Brien, e-mail, B-12."""


def normalised(text: str) -> str:
    """Write a text as every other that says the same: one case, one form of letters, numbers and signs, single blanks.

    As SQuAD's scorer does, but for all scripts. Punctuation divides words as a blank does. What would be another answer
    without it stays: the sign of a number, +, - and # behind a word (C++, A-), a point before one (.NET), units of
    money, per cent. Thousands are not divided (1,987, 1 987 and 1987 are one number). English articles are dropped
    before a word; "a" only at the beginning, as it may be a name elsewhere.

    Example:
        >>> normalised(" The  United States."), normalised("1,987 C++")
        ('united states', '1987 c++')
    """
    return _bare(_unified(text))


def _forms(text: str) -> tuple[str, str]:
    """Return a text with the signs inside its words as divisions, and without them."""
    unified = _unified(text)
    return _bare(unified), _bare(_INSIDE.sub("", unified))


def _unified(text: str) -> str:
    text = _FRACTION.sub(" ", _POWER.sub("^", text.translate(_SIGNS)))
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = "".join(
        str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text if unicodedata.category(c) != "Cf"
    ).strip()
    text = _GROUPED.sub(lambda found: re.sub(r"\D", "", found.group()), text)
    text = _COMMA.sub(lambda found: f"{found[1].replace('.', '')}.{found[2]}", text)
    for pattern, said in _RULES:
        text = pattern.sub(said, text)
    return text


def _bare(text: str) -> str:
    telling = {at for found in _TELLING.finditer(text) for at in range(found.start(), found.end())}
    kept = "".join(c if i in telling or unicodedata.category(c)[0] not in "PS" else " " for i, c in enumerate(text))
    # An answer may be a symbol alone (∞, ♥); half a character is none.
    symbols = "".join(c for c in text if unicodedata.category(c)[0] == "S" and not c.isascii() and c != "\ufffd")
    return " ".join(kept.split()) or symbols


def match(text: str, answers: Sequence[str]) -> float:
    """Return 1.0 when the text, up to the end of a sentence or its own end, is one of the answers, else 0.0.

    Every end of a sentence is tried, so that "St. Petersburg." is the answer St. Petersburg. A text without a letter,
    a digit or a symbol answers nothing: NaN, a missing answer.

    Args:
        text: what a model said after the prompt.
        answers: any of them is right.
    """
    said = [_forms(part) for part in _prefixes(text)]
    if not any(divided for divided, _ in said):
        return math.nan
    wanted = [forms for answer in answers if (forms := _forms(answer))[0]]
    return float(any(a == b for part in said for forms in wanted for a, b in zip(part, forms, strict=True)))


def _prefixes(text: str) -> Iterator[str]:
    text = text.strip()
    yield from (text[: stop.end()] for stop in _STOP.finditer(text))
    yield text


def contained(text: str, wanted: Sequence[Sequence[str]]) -> float:
    """Return 1.0 when the text names every wanted object, each by one of its names as whole words; else 0.0.

    RippleEdits' way of scoring (2307.12976 §4). It grows lenient with the text's length (2507.05937), the more so in
    scripts without spaces between words, where any place will do. NaN for a text that says nothing.

    Args:
        text: what a model said after the prompt.
        wanted: the objects, each with its names.
    """
    said = _forms(text)
    if not said[0]:
        return math.nan
    return float(all(any(any(map(_names, said, _forms(name))) for name in names) for names in wanted))


def _names(said: str, name: str) -> bool:
    """Say whether a text holds a name as whole words."""
    at = said.find(name) if name else -1
    while at >= 0:
        end = at + len(name)
        if _edge(said[at - 1 : at], name[0]) and _edge(said[end : end + 1], name[-1]):
            return True
        at = said.find(name, at + 1)
    return False


def _edge(beside: str, own: str) -> bool:
    """Say whether a word may end between two characters; `beside` is empty at the text's end."""
    return beside in ("", " ") or spaceless(beside) or spaceless(own)
