"""Downstream tasks: can the model still do what it could, in a few words of generated answer?"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from pydantic import Field

from errata.edits import Fact
from errata.errors import EditDataError
from errata.lab.models import LAB_MODELS
from errata.lab.tasks import TASKS
from errata.models import EditableModel
from errata.probes.base import ProbeSettings, View
from errata.probes.generation import generate
from errata.probes.records import read_records, text_field
from errata.probes.rows import Row

__all__ = ["Downstream", "DownstreamSettings", "parse_answer", "weighted_f1"]

INVALID = ""
"""Stands for an answer in which no label was found; never right."""


class DownstreamSettings(ProbeSettings):
    """Settings of the downstream probe."""

    every: int = Field(default=20, ge=1)
    """Measure whenever this many further edits have been made, and at the end."""
    source: str = "auto"
    """Where the items come from: "auto" takes the lab's four tasks for a lab model (nothing for other models); else a
    JSON-lines file with `task`, `prompt` (shots included), `label` (the right word) and `labels` (all words)."""
    n: int = Field(default=100, ge=1)
    """Items a task: a fixed sample. The first paper takes 200."""
    seed: int = 37
    """Seed of the sample; 37 in the first paper's code."""
    new_tokens: int = Field(default=3, ge=1)
    """Tokens generated for an answer; 3 in the first paper's code."""


@dataclass(frozen=True, slots=True)
class _Item:
    prompt: str
    label: str
    labels: tuple[str, ...]


class Downstream:
    """Answer few-shot classification items by greedy generation (2401.07453 §3.3).

    A task yields `downstream.<task>.f1` (weighted), `.accuracy` and `.invalid` (fraction of answers without a label),
    and one row an item, `downstream.<task>.item`: 1 when right, else 0, with the generated text.
    """

    name: ClassVar[str] = "downstream"
    Settings: ClassVar[type[ProbeSettings]] = DownstreamSettings

    def __init__(self, settings: DownstreamSettings) -> None:
        self.settings = settings
        self._tasks: dict[str, list[_Item]] = {}

    def prepare(self, model: EditableModel, facts: Sequence[Fact]) -> None:
        """Load the items and choose the fixed sample."""
        if self.settings.source != "auto":
            self._tasks = _read(self.settings)
        elif model.name in LAB_MODELS:
            self._tasks = {
                name: [_Item(i.prompt, i.label, i.labels) for i in task.heldout(self.settings.n, self.settings.seed)]
                for name, task in TASKS.items()
            }

    def measure(self, view: View) -> Iterator[Row]:
        """Yield the rows of one step."""
        for name, items in self._tasks.items():
            texts = generate(view.model, [item.prompt for item in items], self.settings.new_tokens)
            truth = [item.label.lower() for item in items]
            given = [parse_answer(text, item.labels) for text, item in zip(texts, items, strict=True)]
            right = [a == b for a, b in zip(given, truth, strict=True)]
            figures = {
                "f1": weighted_f1(truth, given),
                "accuracy": sum(right) / len(items),
                "invalid": given.count(INVALID) / len(items),
            }
            for metric, value in figures.items():
                yield Row(view.step, f"downstream.{name}.{metric}", value)
            for i, text in enumerate(texts):
                yield Row(view.step, f"downstream.{name}.item", float(right[i]), prompt_id=f"{name}:{i}", text=text)


def parse_answer(text: str, labels: Sequence[str]) -> str:
    """Return the label at the start of a generated text, lower-cased; INVALID when there is none."""
    longest_first = sorted(labels, key=len, reverse=True)
    found = re.match(rf"\s*({'|'.join(map(re.escape, longest_first))})(?!\w)", text, re.IGNORECASE)
    return found.group(1).lower() if found else INVALID


def weighted_f1(truth: Sequence[str], given: Sequence[str]) -> float:
    """Return the mean of the classes' F1 = 2TP/(2TP + FP + FN), weighted by how often each is the truth.

    As scikit-learn's `f1_score(average="weighted", zero_division=0)`; an invalid answer is a class that is never true.
    """
    total = 0.0
    for label in sorted(set(truth)):
        hits = sum(t == g == label for t, g in zip(truth, given, strict=True))
        support = sum(t == label for t in truth)
        total += support * 2 * hits / (support + sum(g == label for g in given))
    return total / len(truth)


def _read(settings: DownstreamSettings) -> dict[str, list[_Item]]:
    tasks: dict[str, list[_Item]] = {}
    for where, record in read_records(settings.source, Downstream.name):
        label, labels = text_field(record, "label", where), record.get("labels")
        if not isinstance(labels, list) or label not in labels or not all(isinstance(x, str) and x for x in labels):
            raise EditDataError(f"{where}: `labels` is {labels!r}, but a list of words with {label!r} in it is needed.")
        item = _Item(text_field(record, "prompt", where), label, tuple(labels))
        tasks.setdefault(text_field(record, "task", where), []).append(item)
    for name, items in tasks.items():
        keep = sorted(Random(f"{settings.seed}-{name}").sample(range(len(items)), min(settings.n, len(items))))
        tasks[name] = [items[i] for i in keep]
    return tasks
