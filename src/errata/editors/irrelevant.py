"""Texts that no edit is about, for methods that keep what they do to such texts small."""

from collections.abc import Collection, Sequence
from random import Random

from errata.editors.text_source import TextSource
from errata.edits import Fact
from errata.errors import StatisticsError
from errata.models import EditableModel

__all__ = ["IrrelevantTexts"]


class IrrelevantTexts:
    """Draw texts that name no edited subject.

    Args:
        model: whose tokens they are cut by.
        source: where they come from; texts of a single token are left out.
        method: for messages.

    Raises:
        StatisticsError: when no text has two tokens.
    """

    def __init__(self, model: EditableModel, source: TextSource, method: str) -> None:
        self._rows = [row for chunk in source.chunks(model) for row in chunk if len(row) > 1]
        self._texts = [str(model.tokenizer.decode(row)) for row in self._rows]
        self._where = f"method ({method}): statistics.source {source.source!r}"
        if not self._rows:
            raise StatisticsError(
                f"{self._where} has no text of two tokens; irrelevant texts are needed. Give sentences: "
                f"-o method.statistics.source=FILE.txt"
            )

    def naming(self, facts: Sequence[Fact]) -> list[int]:
        """Return the numbers of the texts that name a subject of the facts."""
        return [i for i, text in enumerate(self._texts) if any(fact.subject in text for fact in facts)]

    def draw(self, n: int, rng: Random, *, besides: Collection[int]) -> list[list[int]]:
        """Return the token rows of `n` texts, with replacement.

        Args:
            n: how many.
            rng: what they are drawn with.
            besides: the numbers of texts that are not to be drawn.

        Raises:
            StatisticsError: when none is left.
        """
        left = [row for i, row in enumerate(self._rows) if i not in besides]
        if not left:
            raise StatisticsError(
                f"{self._where}: all {len(self._rows):,} texts name a subject that is or was edited, so none is "
                f"irrelevant. Give more (method.statistics.samples) or another source."
            )
        return rng.choices(left, k=n)
