"""Take fields out of the records of published data sets, naming place and field of what is not there."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from errata.errors import EditDataError
from errata.joining import spaceless

__all__ = ["Fields", "LeftOut", "at_place", "names", "with_place_for"]


# Where a letter or digit stands beside it, with or without a hyphen, a text is a part of a word; "C" is one of "C++".
_BEGINS, _ENDS = r"(?<![^\W_])(?<![^\W_]-)", r"(?!-?[^\W_]|[+#])"


class Fields:
    """Read one record.

    Args:
        place: file and line, and the path inside the record.
        record: the record.
        layout: what records of this data set look like, for messages.

    Raises:
        EditDataError: (by every method) names place and field.
    """

    def __init__(self, place: str, record: Any, layout: str) -> None:
        if not isinstance(record, Mapping):
            raise EditDataError(f"{place}: an object is needed, found {str(record)[:80]!r}; {layout}")
        self.place, self.record, self.layout = place, record, layout

    def has(self, name: str) -> bool:
        """Say whether a field is there and not null."""
        return self.record.get(name) is not None

    def text(self, *names: str) -> str:
        """Return the text of the first of these fields that is there."""
        return str(self._one(names, str))

    def id(self, name: str) -> str:
        """Return a number or text as an id."""
        return str(self._one((name,), (int, str)))

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts; blank ones are dropped, a field left out is empty."""
        found = self.record.get(name) or []
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise EditDataError(f"{self.place}: field {name!r} must be a list of texts, found {str(found)[:80]}.")
        return tuple(text for text in found if text.strip())

    def text_or_texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts, or the one text that stands in its place."""
        found = self.record.get(name)
        return ((found,) if found.strip() else ()) if isinstance(found, str) else self.texts(name)

    def answers(self, name: str, *aliases: str) -> tuple[str, ...]:
        """Return a text and, after it, the aliases of other fields, each once."""
        return _distinct([self.text(name), *(text for alias in aliases for text in self.texts(alias))])

    def inside(self, name: str) -> "Fields":
        """Return the record inside a field."""
        return Fields(f"{self.place}, {name}", self._one((name,), Mapping), self.layout)

    def each(self, name: str) -> Iterator["Fields"]:
        """Yield the records in a list; none where the field is left out."""
        found = self.record.get(name) or []
        if not isinstance(found, list):
            raise EditDataError(f"{self.place}: field {name!r} must be a list, found {str(found)[:80]!r}.")
        for number, record in enumerate(found, 1):
            yield Fields(f"{self.place}, {name} {number}", record, self.layout)

    def nested_texts(self, name: str) -> tuple[str, ...]:
        """Return every non-blank text of a text, a list, or lists of lists, in their order, each once."""
        return _distinct(_flat(self._one((name,), (str, int, list)), self.place, name))

    def _one(self, names: tuple[str, ...], kind: type | tuple[type, ...]) -> Any:
        for name in names:
            if self.has(name):
                if not isinstance(self.record[name], kind) or isinstance(self.record[name], bool):
                    found = str(self.record[name])[:80]
                    raise EditDataError(f"{self.place}: field {name!r} holds {found!r}; {self.layout}")
                return self.record[name]
        missing = " or ".join(map(repr, names))
        raise EditDataError(f"{self.place}: field {missing} is missing; {self.layout}")


class LeftOut:
    """Count records that cannot be an edit, by reason, and tell them."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}

    def note(self, reason: str, place: str) -> None:
        """Leave one out."""
        self._places.setdefault(reason, []).append(place)

    def tell(self, tell: Callable[[str], None]) -> None:
        """Tell one line a reason, with the first place."""
        for reason, places in self._places.items():
            what = "1 record is" if len(places) == 1 else f"{len(places)} records are"
            tell(f"{what} left out: {reason} (first: {places[0]}).")


@contextmanager
def at_place(place: str) -> Iterator[None]:
    """Put the place before what the block finds wrong with a fact, unless it is named already."""
    try:
        yield
    except EditDataError as e:
        raise e if str(e).startswith(place) else EditDataError(f"{place}: {e}") from e


def names(line: str, subjects: Collection[str]) -> bool:
    """Return whether a line names one of the subjects, as whole words, in capitals or not.

    Example:
        >>> names("There he lives.", ["He"]), names("Where is it?", ["He"])
        (True, False)
    """
    line = line.lower()
    found = (subject for subject in map(str.lower, subjects) if subject in line)
    return any(re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", line) for subject in found)


def with_place_for(subject: str, text: str) -> tuple[str, str] | None:
    """Return (prompt with `{}`, the subject as it stands there), or None where the text does not hold the subject.

    A whole word comes before a part of one ("Art" is not looked for in "Artois" while it stands alone as well), then
    the text's own case before another. A subject that occurs twice is marked where it stands first.
    """
    subject = subject.strip()
    if not subject or "{}" in text:
        return None
    exact = re.escape(subject)
    left, right = _BEGINS * _bounded(subject[0]), _ENDS * _bounded(subject[-1])
    for pattern in (f"{left}{exact}{right}", f"(?i:{left}{exact}{right})", exact, f"(?i:{exact})"):
        found = re.search(pattern, text)
        if found and found.group().lower() == subject.lower():  # "İ" and "i" are two letters, whatever `re` says
            return text[: found.start()] + "{}" + text[found.end() :], found.group()
    return None


def _bounded(character: str) -> bool:
    """Say whether a word of which this is the first or last character has a boundary there."""
    return character.isalnum() and not spaceless(character)


def _flat(value: Any, place: str, name: str) -> list[str]:
    if value is None or isinstance(value, str | int):
        return [] if value is None else [str(value)]
    if not isinstance(value, list):
        raise EditDataError(f"{place}: field {name!r} holds {str(value)[:80]!r}, but texts are needed.")
    return [text for part in value for text in _flat(part, place, name)]


def _distinct(texts: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
