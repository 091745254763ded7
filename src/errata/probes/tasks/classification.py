"""Classification by generation: items with a word each for an answer, and what their answers amount to."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from errata.models import EditableModel
from errata.probes.generation import generate
from errata.probes.rows import Row
from errata.probes.tasks import f1

__all__ = ["INVALID", "ChoiceItem", "Parser", "answers", "choice_rows", "parse_answer", "weighted_f1"]

INVALID = ""
"""Stands for an answer in which no label was found; never right."""

Parser = Callable[[str, Sequence[str]], str]
"""Finds one of the labels in a generated text, lower-cased; INVALID when there is none."""


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """One question.

    Args:
        id: its `prompt_id`, the same at every step and in every run.
        prompt: shots and question, up to where the answer starts.
        label: the right word.
        labels: all words.
    """

    id: str
    prompt: str
    label: str
    labels: tuple[str, ...]


def parse_answer(text: str, labels: Sequence[str]) -> str:
    """Return the label at the start of a generated text, lower-cased; INVALID when there is none."""
    longest_first = sorted(labels, key=len, reverse=True)
    found = re.match(rf"\s*({'|'.join(map(re.escape, longest_first))})(?!\w)", text, re.IGNORECASE)
    return found.group(1).lower() if found else INVALID


def weighted_f1(truth: Sequence[str], given: Sequence[str]) -> float:
    """Return the weighted F1 of labels, as `errata.probes.tasks.f1` defines it."""
    codes = {label: i for i, label in enumerate(sorted(set(truth)))}
    return float(f1.weighted_f1(np.array([codes[t] for t in truth]), np.array([codes.get(g, -1) for g in given])))


def answers(model: EditableModel, prompts: Sequence[str], new_tokens: int, until: Sequence[str] = ()) -> list[str]:
    """Continue prompts as `generate` does; one with more tokens than the model has positions gets no answer, "".

    Args:
        model: the model; read only.
        prompts: the texts.
        new_tokens: how many tokens to add at most.
        until: texts before which an answer ends as well.
    """
    fits = [len(ids) <= model.positions for ids in model.encode(list(prompts))]
    made = iter(generate(model, [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit], new_tokens, until))
    return [next(made) if fit else "" for fit in fits]


def choice_rows(
    model: EditableModel,
    step: int,
    task: str,
    items: Sequence[ChoiceItem],
    new_tokens: int,
    parse: Parser = parse_answer,
) -> Iterator[Row]:
    """Let the model answer and yield a task's rows.

    `downstream.<task>.f1` (weighted), `.accuracy`, `.invalid` (share of answers without a label; wrong in both),
    `.chance` (what guessing gives), and for each item `.item`: 1 when right, 0 when wrong, NaN when invalid, with the
    text; `.gold` and `.given`: which of the item's labels is right and which was given (NaN when none), by number and
    name. F1 and accuracy of a model that says nothing at all, as a dead one, are NaN.

    Args:
        model: the model; read only.
        step: how many edits have been made.
        task: its name.
        items: what to ask.
        new_tokens: how many tokens an answer may have.
        parse: finds the label in a text.
    """
    texts = answers(model, [item.prompt for item in items], new_tokens)
    truth = [item.label.lower() for item in items]
    given = [parse(text, item.labels) for text, item in zip(texts, items, strict=True)]
    right = [a == b for a, b in zip(given, truth, strict=True)]
    silent = not any(text.strip() for text in texts)
    figures = {
        "f1": math.nan if silent else weighted_f1(truth, given),
        "accuracy": math.nan if silent else sum(right) / len(items),
        "invalid": given.count(INVALID) / len(items),
        "chance": sum(1 / len(item.labels) for item in items) / len(items),
    }
    for metric, value in figures.items():
        yield Row(step, f"downstream.{task}.{metric}", value)
    for i, item in enumerate(items):
        value = math.nan if given[i] == INVALID else float(right[i])
        yield Row(step, f"downstream.{task}.item", value, prompt_id=item.id, text=texts[i])
        numbers = {label.lower(): float(k) for k, label in enumerate(item.labels)}
        for what, label in (("gold", truth[i]), ("given", given[i])):
            number = numbers.get(label, math.nan)
            yield Row(step, f"downstream.{task}.{what}", number, prompt_id=item.id, text=label)
