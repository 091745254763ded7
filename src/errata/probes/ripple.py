"""Ripple effects: what follows from an edit elsewhere, and what it should have left alone."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field, field_validator

from errata.edits import Fact, standing
from errata.edits.check import FOLLOWS, KEEPS, Check, Query
from errata.errors import ConfigError
from errata.models import EditableModel
from errata.probes.answers import contained, match, normalised
from errata.probes.base import ProbeSettings, View
from errata.probes.generation import generate
from errata.probes.rows import Row
from errata.probes.scoring import score

__all__ = ["Ripple", "RippleSettings"]


class RippleSettings(ProbeSettings):
    """Settings of the ripple probe."""

    new_tokens: int = Field(default=20, ge=1)
    """Tokens at most that are generated after a question."""
    kinds: tuple[str, ...] = ()
    """Which kinds of checks are asked; all that the facts carry when empty."""
    at_end: bool = True
    """Ask the checks of all edited facts once more after the last edit."""

    @field_validator("kinds")
    @classmethod
    def _known_kinds(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [kind for kind in kinds if kind not in FOLLOWS and kind not in KEEPS]:
            raise ValueError(f"{unknown[0]!r} is no kind of check; there are {', '.join((*FOLLOWS, *KEEPS))}")
        return kinds


@dataclass(frozen=True)
class _Test:
    """Checks of one fact of which one has to be passed."""

    fact: Fact
    place: str
    checks: tuple[Check, ...]

    @property
    def kind(self) -> str:
        return self.checks[0].kind


@dataclass(frozen=True)
class _Answer:
    """What a model makes of one check."""

    values: Mapping[str, float]
    text: str
    logp_new: float = math.nan
    logp_true: float = math.nan


class Ripple:
    """Ask the checks that facts carry (portability, multi-hop, reverse, locality, ...), under every scorer that fits.

    Rows `{kind}.{scorer}@{when}`, one a test:

    - `.success`: P(new) > P(true), where the check's answer is the edit's own new object;
    - `.exact`: every token of the first answer is the argmax, where one object answers the check;
    - `.generated`: the free answer is one of the acceptable ones, where one object answers it;
    - `.contained`: the free answer names every wanted object (RippleEdits' scorer, 2307.12976);
    - `.kept`: the free answer is the unedited model's, where the edit should leave it as it was.

    A test whose conditions the unedited model does not answer is not asked, as in RippleEdits: only what a model knows
    can ripple. Row `{kind}.known@base` says of every test that has conditions whether it counts. A test that requires
    other edits is asked once all of them are made, and no more when a later edit contradicts one. NaN is a missing
    answer.
    """

    name: ClassVar[str] = "ripple"
    Settings: ClassVar[type[RippleSettings]] = RippleSettings

    def __init__(self, settings: RippleSettings) -> None:
        self.settings = settings
        self._tests: list[_Test] = []
        self._known: dict[tuple[str, str], float] = {}
        """Of tests with conditions: whether the unedited model answers all of them."""
        self._before: dict[str, str] = {}
        """What the unedited model says to the questions whose answer should stay."""

    def prepare(self, model: EditableModel, facts: Sequence[Fact]) -> None:
        """Ask the unedited model for the conditions, and for the answers that should stay.

        Raises:
            ConfigError: when no fact carries a check that is asked for.
        """
        self._tests = [test for fact in facts for test in _tests(fact) if self._wanted(test.kind)]
        if facts and not self._tests:
            kinds = f" of the kinds {', '.join(self.settings.kinds)}" if self.settings.kinds else ""
            raise ConfigError(
                f"probes ({self.name}): none of the {len(facts):,} facts carries checks{kinds}. CounterFact has none; "
                f"zsRE, MQuAKE, RippleEdits, KnowEdit and WikiBigEdit have, and jsonl in the field `checks`. "
                f"Leave the probe out where there are none."
            )
        conditions = {q: None for t in self._tests for c in t.checks for q in c.conditions}
        named = dict(zip(conditions, self._named(model, list(conditions)), strict=True))
        for test in self._tests:
            answers = [named[query] for check in test.checks for query in check.conditions]
            if answers:
                self._known[test.fact.id, test.place] = math.nan if math.isnan(sum(answers)) else min(answers)
        kept = list(dict.fromkeys(c.prompt for t in self._tests for c in t.checks if not c.follows))
        self._before = dict(zip(kept, generate(model, kept, self.settings.new_tokens), strict=True))

    def measure(self, view: View) -> Iterator[Row]:
        """Yield the rows of one step."""
        edited, batch = ({fact.id for fact in facts} for facts in (standing(view.edited), view.batch))
        if view.step == 0:
            for test in self._tests:
                if (known := self._known.get((test.fact.id, test.place))) is not None:
                    yield Row(0, f"{test.kind}.known@base", known, test.fact.id, test.place)
            yield from self._rows(view, self._tests, "base")
        # A chain over several edits is complete with the last of them.
        made = [t for t in self._ready(edited) if batch & {t.fact.id, *_required(t)}]
        yield from self._rows(view, made, "now")
        if view.final and self.settings.at_end:
            yield from self._rows(view, self._ready(edited), "end")

    def _wanted(self, kind: str) -> bool:
        return not self.settings.kinds or kind in self.settings.kinds

    def _ready(self, edited: set[str]) -> Iterator[_Test]:
        return (t for t in self._tests if edited >= {t.fact.id, *_required(t)})

    def _rows(self, view: View, tests: Iterable[_Test], when: str) -> Iterator[Row]:
        counted = [t for t in tests if self._known.get((t.fact.id, t.place), 1.0) == 1.0]
        answers = iter(self._answers(view.model, [(t.fact, check) for t in counted for check in t.checks]))
        for test in counted:
            found = [next(answers) for _ in test.checks]
            for metric in dict.fromkeys(metric for answer in found for metric in answer.values):
                best = max(found, key=lambda answer: _order(answer.values.get(metric, math.nan)))
                value = _any([answer.values[metric] for answer in found if metric in answer.values])
                yield Row(
                    view.step,
                    f"{test.kind}.{metric}@{when}",
                    value,
                    test.fact.id,
                    test.place,
                    logp_new=best.logp_new,
                    logp_true=best.logp_true,
                    text=best.text,
                )

    def _answers(self, model: EditableModel, asked: Sequence[tuple[Fact, Check]]) -> Iterator[_Answer]:
        """Answer checks, in their order, under the scorers that fit each."""
        texts = generate(model, [check.prompt for _, check in asked], self.settings.new_tokens)
        scores = score(model, [(check.prompt, check.answers[0]) for _, check in asked])
        versus = [
            check.answers[0] == fact.target_new and bool(fact.target_true) and not fact.same_object
            for fact, check in asked
        ]
        others = iter(
            score(model, [(c.prompt, f.target_true) for (f, c), fits in zip(asked, versus, strict=True) if fits])
        )
        for (_, check), text, new, compared in zip(asked, texts, scores, versus, strict=True):
            values: dict[str, float] = {}
            old = next(others).logp if compared else math.nan
            if compared:
                values["success"] = math.nan if math.isnan(new.logp + old) else float(new.logp > old)
            if not check.further:
                values["exact"] = new.exact
                values["generated"] = match(text, check.answers)
            values["contained"] = contained(text, check.wanted)
            if not check.follows:
                values["kept"] = _same(text, self._before[check.prompt])
            yield _Answer(values, text, new.logp, old)

    def _named(self, model: EditableModel, queries: Sequence[Query]) -> list[float]:
        """Return for each query whether the model's free answer names what is wanted."""
        texts = generate(model, [query.prompt for query in queries], self.settings.new_tokens)
        return [contained(text, query.wanted) for query, text in zip(queries, texts, strict=True)]


def _tests(fact: Fact) -> Iterator[_Test]:
    """Gather a fact's checks into tests: those of one group belong together."""
    groups: dict[tuple[str, str], list[Check]] = {}
    for n, check in enumerate(fact.checks):
        groups.setdefault((check.kind, check.group or str(n)), []).append(check)
    for (kind, group), checks in groups.items():
        yield _Test(fact, f"{kind}:{group}", tuple(checks))


def _required(test: _Test) -> set[str]:
    return {other for check in test.checks for other in check.requires}


def _same(text: str, before: str) -> float:
    """Compare two free answers; NaN where the model says nothing now."""
    return float(normalised(text) == normalised(before)) if normalised(text) else math.nan


def _any(values: Sequence[float]) -> float:
    """Return 1.0 when any is, NaN when one is missing that could have been, else 0.0."""
    return 1.0 if 1.0 in values else math.nan if any(map(math.isnan, values)) else 0.0


def _order(value: float) -> float:
    return -1.0 if math.isnan(value) else value
