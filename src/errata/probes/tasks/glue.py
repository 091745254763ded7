"""The first paper's four GLUE tasks and NLI: prompts, fixed balanced samples, and how the paper's code judges."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import yaml

from errata.edits.records import local_records
from errata.errors import ConfigError, EditDataError
from errata.probes.records import text_field
from errata.probes.tasks.classification import INVALID, ChoiceItem, Parser, parse_answer
from errata.probes.tasks.sources import hub_split, local_file

__all__ = ["GLUE_TASKS", "GlueTask", "glue_file", "glue_items", "glue_parser"]

_WORDS = {"entailment": 0, "not_entailment": 1}
_PAPER = ("sst2", "mrpc", "cola", "rte")


@dataclass(frozen=True)
class GlueTask:
    """Declare a task.

    Args:
        name: its identifier.
        hub: configuration and split of nyu-mll/glue.
        block: the form of a question, with the record's fields in braces.
        answers: the words for labels 0, 1, ...
        first: the order in which the paper's code looks for a word.
        shots: solved examples before each question; records with `label`.
        inverted: the words in the paper's code, where they are not `answers`.
        between: what separates blocks.
    """

    name: str
    hub: tuple[str, str]
    block: str
    answers: tuple[str, ...]
    first: tuple[str, ...]
    shots: tuple[Mapping[str, Any], ...]
    inverted: tuple[str, ...] = ()
    between: str = "\n\n"

    def words(self, paper_faithful: bool) -> tuple[str, ...]:
        """Return the words for labels 0, 1, ..."""
        return self.inverted if paper_faithful and self.inverted else self.answers

    def prompt(self, record: Mapping[str, Any], words: Sequence[str]) -> str:
        """Join shots and a question, up to where the answer starts."""
        shots = [f"{self.block.format_map(shot)} {words[shot['label']]}" for shot in self.shots]
        return self.between.join([*shots, self.block.format_map(record)])


def _declared() -> dict[str, GlueTask]:
    content = yaml.safe_load((files(__package__) / "glue.yaml").read_text(encoding="utf-8"))
    found = {}
    for name, fields in content.items():
        settled: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        found[name] = GlueTask(name=name, **settled)
    return found


GLUE_TASKS = _declared()
"""Every task by name."""


def glue_file(source: str, task: str) -> Path:
    """Return a task's local file: `<task>.jsonl` or `<task>.json` in the directory `source`.

    Raises:
        ConfigError: when it is not there.
    """
    return local_file(source, "glue", task, [f"{task}.jsonl", f"{task}.json"])


def glue_items(
    names: Sequence[str], source: str, n: int, seed: int, paper_faithful: bool
) -> dict[str, list[ChoiceItem]]:
    """Read tasks and draw a balanced sample of each: as many items of each label, in shuffled order.

    Each task has a generator of its own, so that its sample does not depend on which others are asked. The paper's
    code draws its four tasks with one, in its order; so does `paper_faithful`, which gives the paper's sample where
    the source is GLUE's whole validation splits in their order.

    Args:
        names: which tasks.
        source: "hub", or a directory with a file a task.
        n: items a task, at most.
        seed: of the samples.
        paper_faithful: whether to keep to the paper's code.

    Raises:
        ConfigError: when a file is missing or the hub cannot be reached.
        EditDataError: when a record is malformed, with its place; when a label has too few items for a balanced sample.
    """
    one = Random(seed)
    needed = [*_PAPER, *(x for x in names if x not in _PAPER)] if paper_faithful else names
    made = {}
    for name in needed:
        task = GLUE_TASKS[name]
        try:
            records = _records(task, source)
        except (ConfigError, EditDataError):
            if name in names:
                raise
            continue  # without it the sample is not the paper's, but as good a one
        rng = one if paper_faithful else Random(f"{seed}-{name}")
        if name in names:
            _check_balance(task, records, n // len(task.answers), source)
        drawn = _balanced(records, n // len(task.answers), rng)
        words = task.words(paper_faithful)
        made[name] = [_item(task, number, records[number], words, paper_faithful) for number in drawn]
    return {name: made[name] for name in names}


def glue_parser(name: str, paper_faithful: bool) -> Parser:
    """Return what finds the answer in a generated text.

    Ours takes the label at its start. The paper's code takes the first of its words, in a fixed order, that occurs
    anywhere after the last answer mark, even inside another word, with its capitals.
    """
    task = GLUE_TASKS[name]
    mark = task.block.rpartition("\n")[2]
    return partial(_anywhere, first=task.first, mark=mark) if paper_faithful else parse_answer


def _anywhere(text: str, labels: Sequence[str], first: Sequence[str], mark: str) -> str:
    answer = text.split(mark)[-1]
    return next((word.lower() for word in first if word in answer), INVALID)


def _records(task: GlueTask, source: str) -> list[Mapping[str, Any]]:
    """Return the records with `label` as a number, each checked."""
    if source == "hub":
        config, split = task.hub
        rows = hub_split("nyu-mll/glue", config, split)
        placed = zip((f"nyu-mll/glue, {config} {split} {i}" for i in count()), rows, strict=False)
        found = [(where, row) for where, row in placed if row.get("label", -1) != -1]
    else:
        found = list(local_records(glue_file(source, task.name)))
    return [_checked(task, record, where) for where, record in found]


def _checked(task: GlueTask, record: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    label = record.get("label")
    label = _WORDS.get(label, label) if isinstance(label, str) else label
    if not isinstance(label, int) or not 0 <= label < len(task.answers):
        raise EditDataError(
            f"{where}: `label` is {record.get('label')!r}, but {task.name} has the labels 0 to {len(task.answers) - 1}"
            f"{' (entailment, not_entailment)' if 'True' in task.answers else ''}."
        )
    fields = [f for f in ("sentence", "sentence1", "sentence2") if f"{{{f}}}" in task.block]
    return {**{field: text_field(record, field, where) for field in fields}, "label": label}


def _check_balance(task: GlueTask, records: Sequence[Mapping[str, Any]], each: int, source: str) -> None:
    """Refuse records of which no sample with as many items of each label can be drawn."""
    if not records:
        raise EditDataError(f"probes (glue): {task.name} from {source!r} holds no record.")
    found = Counter(record["label"] for record in records)
    fewest = min(found[label] for label in range(len(task.answers)))
    if fewest < each:
        counts = ", ".join(f"{found[label]} with label {label} ({word})" for label, word in enumerate(task.answers))
        many = fewest * len(task.answers)
        raise EditDataError(
            f"probes (glue): {task.name} from {source!r} holds {counts}; a balanced sample takes {each} of each. "
            + (f"Set n to {many} or less, or give more records." if many else "Give records of every label.")
        )


def _balanced(records: Sequence[Mapping[str, Any]], each: int, rng: Random) -> list[int]:
    """Draw as the paper's code does: shuffle every label's records, labels in order of appearance, then all drawn."""
    by_label: dict[int, list[int]] = {}
    for number, record in enumerate(records):
        by_label.setdefault(record["label"], []).append(number)
    drawn = []
    for numbers in by_label.values():
        rng.shuffle(numbers)
        drawn += numbers[:each]
    rng.shuffle(drawn)
    return drawn


def _item(
    task: GlueTask, number: int, record: Mapping[str, Any], words: Sequence[str], paper_faithful: bool
) -> ChoiceItem:
    # SST-2's sentences end with a space; the paper's code keeps it.
    fields = {k: v.strip() if isinstance(v, str) and not paper_faithful else v for k, v in record.items()}
    return ChoiceItem(f"{task.name}:{number}", task.prompt(fields, words), words[record["label"]], tuple(words))
