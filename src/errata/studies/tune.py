"""Find settings of a method for a model: try them in single edits of facts that the model knows."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch

from errata.editors.registry import editor_class, merge, resolve_settings
from errata.editors.statistics import StatisticsStore, default_cache
from errata.edits import Fact
from errata.errors import AnalysisError, ErrataError
from errata.files import append_lines
from errata.models import EditableModel, check_answers, identity_of
from errata.models.writing import written
from errata.probes.scoring import score, score_tokens
from errata.studies.candidates import candidates
from errata.studies.first_edits import first_edits

__all__ = ["Outcome", "Trial", "known", "occasion", "tune"]

PERPLEXITY = 1.01
"""The most that an edit may multiply the perplexity of other text by."""
_FEW, _MANY = 8, 24  # facts of a trial, and of the last comparison
_ROWS, _TOKENS = 4, 128  # of the model's own text, for perplexity
_TEXT_SEED = 4_000_000_007  # another text than the statistics'


@dataclass(frozen=True)
class Outcome:
    """What single edits with some settings came to, as means over facts.

    Args:
        exact: the share of edits after which every token of the new object is the most probable.
        success: the share after which it is more probable than the true one.
        paraphrase: the same, asked in other words.
        neighborhood: the share of neighbors' answers that the model knew and still prefers.
        perplexity: of text that the model wrote before, as a multiple of before.
        seconds: an edit took.
    """

    exact: float
    success: float
    paraphrase: float
    neighborhood: float
    perplexity: float
    seconds: float

    @property
    def objective(self) -> float:
        """exact × paraphrase × neighborhood; 0 where perplexity rises by more than 1 %, or is not a number."""
        if not self.perplexity <= PERPLEXITY:
            return 0.0
        return self.exact * self.paraphrase * self.neighborhood


@dataclass(frozen=True)
class Trial:
    """One set of settings and its outcome.

    Args:
        settings: laid over the method's defaults for the model; nested.
        facts: on how many facts.
        outcome: None where the method refused the settings or failed.
        remark: why it failed.
    """

    settings: Mapping[str, Any]
    facts: int
    outcome: Outcome | None
    remark: str = ""

    @property
    def objective(self) -> float:
        """The outcome's objective; below every other where there is none."""
        return -1.0 if self.outcome is None else self.outcome.objective


def tune(
    model: EditableModel,
    method: str,
    facts: Sequence[Fact],
    file: Path,
    *,
    seconds: float = 1200.0,
    tell: Callable[[str], None] = lambda message: None,
    doing: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Trial]:
    """Try settings one after another, keeping what is best so far; every trial is recorded at once.

    One setting is varied at a time, in the order of `candidates`: layers first, then strength, then bounds and steps.
    Called again with the same file, trials that are there are not made again.

    Args:
        model: the clean model.
        method: the method.
        facts: from `known`.
        file: JSON Lines, a trial a line.
        seconds: after which no further trial is begun. The last comparison still is made.
        tell: receives one line a trial.
        doing: receives how far it is.

    Returns:
        The trials on all facts, the defaults first and the winner last; one where nothing was better.
    """
    bench = _Bench(model, method, facts, file)
    began = time.monotonic()
    default = resolve_settings(method, model, untuned=True)
    best = bench.trial({}, _FEW)
    tell(f"defaults: {described(best)}")
    tried = list(candidates(default, model))
    for number, (name, options) in enumerate(tried):
        for option in options:
            doing("tuning", number, len(tried))
            if time.monotonic() - began > seconds:
                break
            found = bench.trial(merge(best.settings, option), _FEW)
            tell(f"{name} {short(option)}: {described(found)}")
            best = max(best, found, key=lambda trial: trial.objective)
    doing("tuning", len(tried), len(tried))
    first, last = bench.trial({}, _MANY), bench.trial(best.settings, _MANY)
    tell(f"on {last.facts} facts: defaults {described(first)}; best {described(last)}")
    return [first, last] if last.objective > first.objective else [first]


def known(model: EditableModel, facts: Sequence[Fact]) -> list[Fact]:
    """Return the facts whose true object the model prefers to the new one, with the neighbors for which it does too.

    What a model does not know cannot be held against an edit.

    Raises:
        AnalysisError: when no fact is left.
    """
    check_answers(model)
    asked = [fact for fact in facts if fact.target_true and fact.paraphrase_prompts and fact.neighborhood_prompts]
    prompts = [(fact, prompt) for fact in asked for prompt in (fact.text, *fact.neighborhood_prompts)]
    pairs = [(p, o) for fact, p in prompts for o in (fact.target_true, fact.target_new)]
    scores = score(model, pairs, [fact.join for fact, _ in prompts for _ in range(2)])
    preferred = {
        (fact.id, prompt): true.logp > new.logp
        for (fact, prompt), true, new in zip(prompts, scores[::2], scores[1::2], strict=True)
    }
    found = []
    for fact in asked:
        near = tuple(prompt for prompt in fact.neighborhood_prompts if preferred[fact.id, prompt])
        if near and preferred[fact.id, fact.text]:
            found.append(_with_neighbors(fact, near))
    if not found:
        raise AnalysisError(
            f"{model.name} prefers the true object in none of these {len(facts)} facts, or they have no target_true, "
            f"paraphrase_prompts and neighborhood_prompts. Give facts that it knows: --facts FILE."
        )
    return found


def _with_neighbors(fact: Fact, prompts: tuple[str, ...]) -> Fact:
    record = fact.to_mapping() | {"neighborhood_prompts": list(prompts)}
    return Fact.from_mapping(record, fact.id)


class _Bench:
    """What trials have in common: facts, other text, and the file of what was tried."""

    def __init__(self, model: EditableModel, method: str, facts: Sequence[Fact], file: Path) -> None:
        self._model, self._method, self._facts, self._file = model, method, list(facts), file
        generator = torch.Generator().manual_seed(_TEXT_SEED)
        self._text = written(model, _ROWS, min(_TOKENS, model.positions), generator)
        self._before = self._perplexity()
        self._made = {(_key(trial.settings), trial.facts): trial for trial in read_trials(file)}

    def trial(self, settings: Mapping[str, Any], n: int) -> Trial:
        """Return the trial of these settings on the first facts: as it was recorded, else made."""
        facts = self._facts[:n]
        if (made := self._made.get((_key(settings), len(facts)))) is not None:
            return made
        try:
            trial = Trial(settings, len(facts), self._outcome(settings, facts))
        except ErrataError as e:
            trial = Trial(settings, len(facts), None, str(e))
        append_lines(self._file, [asdict(trial)])
        self._made[_key(settings), len(facts)] = trial
        return trial

    def _outcome(self, settings: Mapping[str, Any], facts: Sequence[Fact]) -> Outcome:
        model = self._model
        editor = editor_class(self._method)(resolve_settings(self._method, model, settings, untuned=True))
        editor.prepare(model, StatisticsStore(default_cache()), Random(0))
        columns: dict[str, list[float]] = {name: [] for name in Outcome.__dataclass_fields__}
        for fact, entry in first_edits(model, editor, facts):
            for name, values in self._figures(fact).items():
                columns[name] += values
            columns["seconds"].append(entry.seconds)
        return Outcome(**{name: fmean(values) for name, values in columns.items()})

    def _figures(self, fact: Fact) -> dict[str, list[float]]:
        prompts = (fact.text, *fact.paraphrase_prompts, *fact.neighborhood_prompts)
        pairs = [(p, o) for p in prompts for o in (fact.target_new, fact.target_true)]
        scores = score(self._model, pairs, [fact.join] * len(pairs))
        new, true = scores[::2], scores[1::2]
        near = 1 + len(fact.paraphrase_prompts)
        changed = [float(n.logp > t.logp) for n, t in zip(new, true, strict=True)]
        return {
            "exact": [new[0].exact],
            "success": changed[:1],
            "paraphrase": changed[1:near],
            "neighborhood": [float(t.logp > n.logp) for n, t in zip(new[near:], true[near:], strict=True)],
            "perplexity": [self._perplexity() / self._before],
        }

    def _perplexity(self) -> float:
        scores = score_tokens(self._model, [(row, 1) for row in self._text])
        return math.exp(min(700.0, -float(torch.cat([s.logps.double() for s in scores]).mean())))


def read_trials(file: Path) -> Iterator[Trial]:
    """Yield the trials of a file; a line that was cut short is left out."""
    if not file.exists():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        outcome = record.pop("outcome")
        yield Trial(outcome=outcome and Outcome(**outcome), **record)


def occasion(model: EditableModel, method: str, facts: Sequence[Fact]) -> str:
    """Return a digest of all that a trial's outcome depends on beside its settings."""
    default = resolve_settings(method, model, untuned=True).model_dump(mode="json")
    whole = [str(identity_of(model)), str(model.dtype), default, [fact.to_mapping() for fact in facts]]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]


def described(trial: Trial) -> str:
    """Say in a line what a trial came to."""
    if trial.outcome is None:
        return f"failed: {trial.remark}"
    o = trial.outcome
    return (
        f"objective {o.objective:.3f} (exact {o.exact:.0%}, paraphrase {o.paraphrase:.0%}, neighborhood "
        f"{o.neighborhood:.0%}, perplexity × {o.perplexity:.4f}), {o.seconds:.1f} s an edit"
    )


def short(settings: Mapping[str, Any]) -> str:
    """Write settings on one line, as `-o` takes them."""
    parts = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            parts += [f"{key}.{inner}" for inner in short(value).split(", ")]
        else:
            parts.append(f"{key}={json.dumps(value).replace(' ', '')}")
    return ", ".join(parts)


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)
