"""A model on the bench: one fact after another is edited, compared with the unedited model, and taken back."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from errata.app.material import Material
from errata.editors.registry import editor_class, resolve_settings
from errata.editors.statistics import StatisticsStore, default_cache
from errata.edits import Fact
from errata.edits.fields import names
from errata.errors import ConfigError, RunError
from errata.joining import Join
from errata.models import EditableModel, check_answers
from errata.probes.base import View
from errata.probes.canary import LineCanary, canary_lines
from errata.probes.generation import generate
from errata.probes.perplexity import Perplexity, PerplexitySettings
from errata.probes.scoring import score
from errata.probes.unrelated import Unrelated, UnrelatedSettings
from errata.studies.guarded import limits_of, with_alternatives, with_retry
from errata.studies.recipe import GuardSection
from errata.trajectory import Entry, Guard, Trajectory, Watch

__all__ = ["Bench", "Comparison", "Cost", "Line"]

T = TypeVar("T")
_TOKENS = 10
_UNRELATED = 150
_LINES = 40
_HORIZON = 20  # edits that the guard's budget is to last for: somebody tries a few


@dataclass(frozen=True)
class Line:
    """One prompt before and after.

    Args:
        kind: "prompt", "paraphrase", "neighbor" or "free text".
        prompt: the text.
        wanted: the object looked for; empty for free text, and for neighbors whose answer is not known.
        before: how the unedited model goes on.
        after: how the model goes on now.
        p_before: P(object | prompt), the geometric mean over its tokens; None without an object.
        p_after: the same now.
    """

    kind: str
    prompt: str
    wanted: str
    before: str
    after: str
    p_before: float | None
    p_after: float | None


@dataclass(frozen=True)
class Cost:
    """What all edits together have cost; None where there is nothing to measure it by.

    Args:
        edits: how many are applied.
        unrelated: the share of facts about people never edited here that the model states.
        perplexity: on held-out text.
        kept: the share of the guard's canary whose most probable next token is the unedited model's.
    """

    edits: int
    unrelated: float | None
    perplexity: float | None
    kept: float


@dataclass(frozen=True)
class Comparison:
    """What one fact looks like before any edit and now."""

    fact: Fact
    entry: Entry | None
    lines: tuple[Line, ...]


class Bench:
    """Hold a model, a method and the edits made so far.

    Every update is judged on a canary before it lands, with the limits and the further settings of `errata edit`; what
    costs too much is refused. Of the canary, lines that name what is edited are left out: which is known at each edit.

    Args:
        model: the unedited model.
        method: how it is edited, with the settings resolved for the model.
        unrelated: a file of known facts, as for the probe of that name; a lab model brings its own.
        text: a file of held-out text for the perplexity; likewise.
        tell: told what is being prepared.

    Raises:
        ConfigError: when there is no such method, or it cannot work on this model.
        StatisticsError: when the method needs text for its statistics and has none.
    """

    def __init__(
        self,
        model: EditableModel,
        method: str = "memit",
        *,
        unrelated: str = "auto",
        text: str = "auto",
        tell: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.model, self.method = model, method
        self.material = Material(model)
        check_answers(model)
        tell(f"preparing {method} for {model.name}")
        settings = resolve_settings(method, model)
        self._guard = with_retry(GuardSection(enabled=True, horizon=_HORIZON), settings)
        editor = with_alternatives(editor_class(method)(settings), self._guard)
        editor.prepare(model, StatisticsStore(default_cache(), tell=tell), Random(0))
        with model.form("raw"):
            self._lines = canary_lines(model, self._guard.source, self._guard.lines, ())
        self._unrelated = Unrelated(UnrelatedSettings(source=unrelated, n=_UNRELATED))
        self._perplexity = Perplexity(PerplexitySettings(source=text, lines=_LINES))
        for probe in (self._unrelated, self._perplexity):
            probe.prepare(model, ())
        size = Guard(policy="rollback", spike=self._guard.spike, warm_up=self._guard.warm_up)
        self.trajectory = Trajectory(model, editor, guard=size)
        self._watch_besides(())
        self.facts: dict[str, Fact] = {}
        self.costs = [self._cost()]

    @property
    def log(self) -> Sequence[Entry]:
        """The journal: every edit with what became of it."""
        return self.trajectory.journal.entries

    def edit(self, fact: Fact, free: Sequence[str] = ()) -> Comparison:
        """Teach the model a fact, and compare.

        Args:
            fact: the fact; it is given an id of its own, and paraphrases and neighbors where they are known.
            free: further texts to go on from.

        Raises:
            EditDataError: when the model cannot read it.
            ConfigError: when every line of the canary names its subject.
        """
        fact = self.material.completed(replace(fact, id=str(len(self.log) + 1)), self.unedited)
        self._watch_besides([fact.subject, *(entry.subject for entry in self.log if entry.applied)])
        (entry,) = self.trajectory.advance([fact])
        self.facts[fact.id] = fact
        self.costs.append(self._cost())
        return self.compare(fact, free, entry)

    def undo(self) -> Entry:
        """Take back the last applied edit, exactly, and return its line in the journal.

        Raises:
            RunError: when none is applied.
        """
        if not any(entry.applied for entry in self.log):
            raise RunError("there is no edit to take back.")
        (taken,) = self.trajectory.undo(last=1)
        self.costs.append(self._cost())
        return next(entry for entry in self.log if entry.id == taken)

    def compare(self, fact: Fact, free: Sequence[str] = (), entry: Entry | None = None) -> Comparison:
        """Compare the unedited model and the present one on a fact's prompts and on further texts."""
        asked = [("prompt", fact.text, fact.target_new)]
        asked += [("paraphrase", text, fact.target_new) for text in fact.paraphrase_prompts]
        asked += [("neighbor", text, fact.target_true) for text in fact.neighborhood_prompts]
        asked += [("free text", text, "") for text in free if text.strip()]
        after = self._read(asked, fact.join)
        before = self.unedited(lambda: self._read(asked, fact.join))
        lines = [
            Line(kind, prompt, wanted, old, new, p_old, p_new)
            for (kind, prompt, wanted), (old, p_old), (new, p_new) in zip(asked, before, after, strict=True)
        ]
        return Comparison(fact, entry, tuple(lines))

    def unedited(self, work: Callable[[], T]) -> T:
        """Do some work on the unedited model."""
        with self.trajectory.at(0):
            return work()

    def close(self) -> None:
        """Take off the model what the method has attached to it."""
        self.trajectory.close()

    def _watch_besides(self, subjects: Collection[str]) -> None:
        """Judge by the canary's lines that name none of these: what is said of them is meant to change."""
        lines = [line for line in self._lines if not names(line, subjects)]
        if not lines:
            raise ConfigError("every line of the guard's canary names what is to be edited; none is left to judge by.")
        self._canary = self.unedited(lambda: LineCanary(self.model, lines))
        self.trajectory.judge = Watch(limits_of(self._guard), self._canary)
        self.trajectory.judge.recall(self.log)

    def _read(self, asked: Sequence[tuple[str, str, str]], join: Join) -> list[tuple[str, float | None]]:
        texts = generate(self.model, [prompt for _, prompt, _ in asked], _TOKENS)
        pairs = [(prompt, wanted) for _, prompt, wanted in asked if wanted]
        scores = dict(zip(pairs, score(self.model, pairs, [join] * len(pairs)), strict=True))
        return [
            (text, math.exp(scores[prompt, wanted].logp) if wanted else None)
            for text, (_, prompt, wanted) in zip(texts, asked, strict=True)
        ]

    def _cost(self) -> Cost:
        edited = {entry.subject.lower() for entry in self.log}
        view = View(self.model, step=self.trajectory.step)
        rows = [row for row in self._unrelated.measure(view) if row.metric == "unrelated.exact"]
        others = [row.value for row in rows if not any(subject in row.prompt_id.lower() for subject in edited)]
        read = [row.value for row in self._perplexity.measure(view) if row.metric == "perplexity"]
        return Cost(
            edits=sum(entry.applied for entry in self.log),
            unrelated=sum(others) / len(others) if others else None,
            perplexity=read[0] if read else None,
            kept=self._canary.measure(self.model, ())["kept"],
        )
