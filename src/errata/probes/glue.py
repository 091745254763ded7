"""GLUE tasks: the first paper's measure of what else a model can still do."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from errata.edits import Fact
from errata.models import EditableModel
from errata.probes.base import ProbeSettings, View
from errata.probes.rows import Row
from errata.probes.tasks.classification import ChoiceItem, choice_rows
from errata.probes.tasks.glue import glue_file, glue_items, glue_parser

__all__ = ["Glue", "GlueSettings"]


class GlueSettings(ProbeSettings):
    """Settings of the GLUE probe."""

    every: int = Field(default=20, ge=1)
    """Measure whenever this many further edits have been made, and at the end. About every 10 in the first paper."""
    tasks: tuple[Literal["sst2", "mrpc", "cola", "rte", "nli"], ...] = ("sst2", "mrpc", "cola", "rte")
    """Which tasks; nli is of the same group's later code and has no shots."""
    source: str = "hub"
    """"hub" (nyu-mll/glue), or a directory that holds `<task>.jsonl` for each, with GLUE's own fields."""
    n: int = Field(default=200, ge=2)
    """Items a task, as many of each label: a fixed sample of the validation split. 200 in the first paper. Data with
    too few of a label are refused."""
    seed: int = 37
    """Seed of the sample; 37 in the first paper's code."""
    new_tokens: int = Field(default=3, ge=1)
    """Tokens generated for an answer; 3 in the first paper's code."""
    paper_faithful: bool = False
    """Keep to the first paper's code where ours departs from it: RTE's answers inverted, a label taken wherever it
    occurs in the answer, items' trailing spaces kept, the four samples drawn with one generator."""


class Glue:
    """Ask SST-2, MRPC, CoLA and RTE in few-shot prompts and read the generated answer (2401.07453 §3.3, Tables 4 to 7).

    A task yields `downstream.<task>.f1` (weighted, the paper's figure), `.accuracy`, `.invalid`, `.chance`, and `.item`
    for each item: 1 when right, 0 when wrong, NaN when the answer holds no label.
    """

    name: ClassVar[str] = "glue"
    Settings: ClassVar[type[ProbeSettings]] = GlueSettings

    def __init__(self, settings: GlueSettings) -> None:
        self.settings = settings
        self._items: dict[str, list[ChoiceItem]] = {}

    def files(self) -> list[Path]:
        """Return the local files on which the figures depend."""
        s = self.settings
        return [] if s.source == "hub" else [glue_file(s.source, task) for task in s.tasks]

    def prepare(self, model: EditableModel, facts: Sequence[Fact]) -> None:
        """Read the items and draw the fixed samples."""
        s = self.settings
        self._items = glue_items(s.tasks, s.source, s.n, s.seed, s.paper_faithful)

    def measure(self, view: View) -> Iterator[Row]:
        """Yield the rows of one step."""
        s = self.settings
        for task, items in self._items.items():
            parse = glue_parser(task, s.paper_faithful)
            yield from choice_rows(view.model, view.step, task, items, s.new_tokens, parse)
