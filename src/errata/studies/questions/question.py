"""A question: the runs that it takes, and the answer that is read from their rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errata.studies.reproduce.make import make
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Size, Work

__all__ = ["Answer", "Question", "Table"]


@dataclass(frozen=True)
class Table:
    """A table of an answer.

    Args:
        columns: their headings.
        rows: a row each, as it is written.
        values: the figures behind the rows, as JSON holds them.
        note: how it is to be read.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    values: Sequence[Mapping[str, Any]]
    note: str = ""

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        made = "".join("| " + " | ".join(line) + " |\n" for line in lines)
        return f"{made}\n{self.note}\n" if self.note else made


@dataclass(frozen=True)
class Answer:
    """What the rows say.

    Args:
        tables: in their order.
        figure: a Vega-Lite specification that stands alone.
        caption: what the figure shows.
        metrics: of the rows from which everything is computed.
    """

    tables: Sequence[Table]
    figure: Mapping[str, Any]
    caption: str
    metrics: Sequence[str]


@dataclass(frozen=True)
class Question:
    """An open question.

    Args:
        name: of the command.
        title: the question, as a sentence.
        work: lists the runs for a size, below a directory.
        about: says what is run, for a size.
        answer: reads the finished runs.
        samples: orders or draws of each kind of run, by default.
        edits: of each run, by default.
        model: the default model.
        make: makes the runs, and returns those that are there.
        grows: whether runs are taken so many edits far and can be taken further later; else each has so many edits.
    """

    name: str
    title: str
    work: Callable[[Size, Path], Work]
    about: Callable[[Size], str]
    answer: Callable[[Results], Answer]
    samples: int = 4
    edits: int = 100
    model: str = "lab-s-small"
    make: Callable[..., Results] = make
    grows: bool = False
