"""A question: the runs that it takes, and the answer that is read from their rows."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errata.errors import ConfigError
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
        least_edits: of each run, for there to be an answer.
        least_samples: of each kind of run, for there to be an answer.
        over: says of a run's directory that nothing is asked for beyond where it stands.
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
    least_edits: int = 2
    least_samples: int = 1
    over: Callable[[Path], bool] = lambda run: False

    def check(self, size: Size, work: Work) -> None:
        """Refuse a size from which no answer follows, before anything is made.

        Args:
            size: of the runs.
            work: the runs, with the orders from which they take their facts.

        Raises:
            ConfigError: when there are too few edits or samples, or more edits than facts.
        """
        edits = size.edits or 0
        if edits < self.least_edits:
            raise ConfigError(
                f"`errata ask {self.name}` compares what it finds along a run of at least {self.least_edits} edits, "
                f"and --edits is {edits}. Ask for {self.least_edits} or more, or leave --edits out for {self.edits}."
            )
        if size.samples < self.least_samples:
            raise ConfigError(
                f"`errata ask {self.name}` compares at least {self.least_samples} runs of a kind, and --samples is "
                f"{size.samples}. Ask for {self.least_samples} or more, or leave --samples out for {self.samples}."
            )
        facts = min(len(order) for file in work.files.values() for order in json.loads(file).values())
        if edits > facts:
            raise ConfigError(
                f"--edits is {edits}, and {size.model} has {facts} facts for the runs of `errata ask {self.name}`. Ask "
                f"for {facts} or fewer, or name a larger lab model with --model."
            )
