"""Read what lm-eval returns for each item, and tell right, wrong, invalid and unanswered apart."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from errata.errors import EditDataError
from errata.probes.rows import Row
from errata.probes.tasks.benchmarks import Benchmark, chance_of

__all__ = ["Sample", "sample_rows"]

_NO_ANSWER = "[invalid]"  # what lm-eval's filters put where they find none


@dataclass(frozen=True)
class Sample:
    """What is asked of one set.

    Args:
        benchmark: the set.
        subsets: the subset of each of lm-eval's tasks.
        numbers: for each of these tasks the items asked.
    """

    benchmark: Benchmark
    subsets: Mapping[str, str]
    numbers: Mapping[str, list[int]]


def sample_rows(step: int, sample: Sample, records: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Row]:
    """Yield a set's rows.

    Args:
        step: how many edits have been made.
        sample: what was asked.
        records: lm-eval's task and logged sample of each item.
    """
    task = sample.benchmark.name
    items = [_Item.of(sample, name, record) for name, record in records]
    asked = [item for item in items if item.has_answer]
    if asked:  # else there is no score, which is something else than a dead model's
        silent = all(item.silent for item in asked)
        accuracy = math.nan if silent else _share([float(item.right == 1) for item in asked])
        yield Row(step, f"downstream.{task}.accuracy", accuracy)
    yield Row(step, f"downstream.{task}.invalid", _share([float(item.invalid) for item in items]))
    yield Row(step, f"downstream.{task}.chance", _share([item.chance for item in items]))
    yield Row(step, f"downstream.{task}.unanswered", _share([float(not item.has_answer) for item in items]))
    for item in items:
        yield Row(
            step,
            f"downstream.{task}.item",
            item.right,
            prompt_id=item.id,
            logp_new=item.logp_other,
            logp_true=item.logp_right,
            text=item.text,
        )
        if item.f1 is not None:
            yield Row(step, f"downstream.{task}.f1", item.f1, prompt_id=item.id)


def _share(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@dataclass(frozen=True)
class _Item:
    """What came of one item; `right` is NaN where the model gave no answer, or the data hold none to compare with.

    It is `silent` where no text came or a choice's probability is NaN; an answer without a valid form is only invalid.
    """

    id: str
    right: float
    silent: bool
    invalid: bool
    has_answer: bool
    chance: float
    text: str
    f1: float | None
    logp_right: float = math.nan
    logp_other: float = math.nan

    @classmethod
    def of(cls, sample: Sample, name: str, record: Mapping[str, Any]) -> Self:
        benchmark, subset = sample.benchmark, sample.subsets[name]
        place = ":".join(x for x in (benchmark.name, subset, str(record["doc_id"])) if x)
        document, target = record["doc"], record["target"]
        answers = [response[0] for response in record["resps"]]
        scored = isinstance(answers[0], tuple)
        chance = chance_of(document, target, len(answers) if scored else 0)
        value = float(record[benchmark.right])
        if scored:
            logps = [logp for logp, _ in answers]
            choices = [arguments[1].strip() for arguments in record["arguments"]]
            gold = target if isinstance(target, int) else choices.index(str(target).strip())
            if not 0 <= gold < len(choices):
                raise EditDataError(f"{place}: its label is {target!r}, one of {len(choices)} choices is needed.")
            dead = any(map(math.isnan, logps))
            # As lm-eval takes the best choice for the figure: of its log-probability, or that per character.
            each = [len(arguments[1]) if benchmark.right == "acc_norm" else 1 for arguments in record["arguments"]]
            text = "" if dead else max(zip(logps, each, choices, strict=True), key=lambda c: c[0] / c[1])[2]
            others = [logp for i, logp in enumerate(logps) if i != gold]
            right = math.nan if dead else value
            best_other = math.nan if dead else max(others)
            return cls(place, right, dead, dead, True, chance, text, None, logps[gold], best_other)
        filtered = record["filtered_resps"][0]
        silent = not answers[0].strip()
        invalid = silent or filtered == _NO_ANSWER
        known = "answers" not in document or any(a.strip() for a in document["answers"])
        f1 = (math.nan if silent else float(record["f1"])) if known and "f1" in record else None
        right = math.nan if invalid or not known else value
        return cls(place, right, silent, invalid, known, chance, answers[0], f1)
