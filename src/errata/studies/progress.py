"""Who is told how a run goes; the command line draws it, programs may listen."""

from collections.abc import Mapping, Sequence

from errata.probes.rows import Row
from errata.trajectory import Entry

__all__ = ["Progress"]


class Progress:
    """Hear of a run's progress, and do nothing about it; override what you want to know."""

    def tell(self, message: str) -> None:
        """Receive a remark."""

    def doing(self, what: str, done: int, total: int) -> None:
        """Hear how far something is that is no edit and may take its time; `done` = `total` ends it."""

    def begin(self, step: int, total: int) -> None:
        """Hear that editing starts after `step` of `total` edits."""

    def measured(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """Hear of the unedited model's rows."""

    def edited(self, entries: Sequence[Entry], rows: Mapping[str, Sequence[Row]], seconds: float) -> None:
        """Hear of one batch, with the rows of each probe not yet written to disk."""

    def end(self) -> None:
        """Hear that the run is over."""
