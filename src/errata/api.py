"""Edit facts in a few lines of Python."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp
from random import Random
from typing import Any

from torch import nn

from errata.analysis.advice import why_not
from errata.editors.registry import editor_class, resolve_settings
from errata.editors.statistics import StatisticsStore, default_cache
from errata.edits import EditStream, Fact
from errata.edits.relations import WORDINGS, taught_in_other_words
from errata.errors import ConfigError, EditDataError
from errata.models import EditableModel, check_answers
from errata.models.plain import plain_model
from errata.probes.generation import generate
from errata.probes.scoring import score
from errata.studies.correct import held, remarks
from errata.studies.embedded import check_stream
from errata.studies.guarded import watch_over, with_alternatives, with_retry
from errata.studies.recipe import GuardSection
from errata.studies.session import taught_paraphrases
from errata.trajectory import Entry, Guard, Trajectory

__all__ = ["EditResult", "edit"]

_TOKENS = 8


@dataclass(frozen=True)
class EditResult:
    """What became of a list of edits; printing it shows every fact before and after.

    Args:
        trajectory: the edited model's trajectory: `at(0)` shows the unedited model, `undo()` takes edits back.
        entries: the journal's line of every fact.
        facts: the facts, in the same order.
        before: how the unedited model continued each prompt.
        after: how the edited model continues it.
        took: whether every token of the object is the most probable one after the last edit; None where the edit is not
            in the weights.
        causes: why an applied edit did not take, as far as its diagnostics tell; empty elsewhere.
        remarks: what was unusual about the facts before any edit: held by the model already, a paraphrase that does not
            name its subject, ...
    """

    trajectory: Trajectory
    entries: tuple[Entry, ...]
    facts: tuple[Fact, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    took: tuple[bool | None, ...]
    causes: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"note: {remark}" for remark in self.remarks]
        columns = (self.facts, self.entries, self.before, self.after, self.took, self.causes)
        for fact, entry, before, after, took, cause in zip(*columns, strict=True):
            reason = f": {entry.verdict}" if entry.verdict else ""
            state = {True: ", took", False: ", did not take", None: ""}[took]
            lines.append(f"{fact.text} … {fact.target_new}   [{entry.status}{state}{reason}]")
            lines.append(f"  before: {before.strip()}")
            lines.append(f"  after:  {after.strip()}")
            if cause:
                lines.append(f"  likely: {cause}")
        return "\n".join(lines)

    def undo(self, *, last: int | None = None, id: str | None = None) -> list[str]:
        """Take back every edit that stands, or the last ones, or one by id; see `Trajectory.undo`.

        Every edit: those that were made afterwards by `trajectory.advance` as well.
        """
        if last is None and id is None:
            last = sum(entry.applied for entry in self.trajectory.journal.entries)
        return self.trajectory.undo(last=last, id=id)

    def close(self) -> None:
        """Take off the model what a method that works beside the weights has attached to it; see `Trajectory.close`.

        Such a method's edits are gone then; what others have written stays in the weights.
        """
        self.trajectory.close()


def edit(
    model: EditableModel,
    facts: Fact | Mapping[str, Any] | Sequence[Fact | Mapping[str, Any]],
    method: str = "memit",
    *,
    batch_size: int = 1,
    guard: bool | Guard = True,
    seed: int = 0,
    wordings: int = WORDINGS,
    **settings: Any,
) -> EditResult:
    """Teach a model facts, one batch after another; the model itself is changed and stays a plain transformers model.

    Args:
        model: from `errata.load`, or `EditableModel(your_model, your_tokenizer)`.
        facts: what to teach: `Fact`s, or mappings with subject, prompt and target_new; numbered anew, from 1, where ids
            repeat.
        method: an editing method; `errata methods` lists them.
        batch_size: facts in one update.
        guard: whether each update is judged on a canary before it lands (docs/design/guard.md), and refused where it
            costs too much; or a `Guard`, which looks at its size alone.
        seed: of everything the method samples.
        wordings: in how many words of its relation each fact is taught beside its own prompt, where its relation is a
            known one (`errata.edits.relations`); 0: in its own prompt alone.
        settings: the method's settings, over those resolved for the model.

    Raises:
        EditDataError: when a fact is malformed, or there is none.
        ModelError: when the model answers NaN before any edit.
        ConfigError: when method or settings do not exist, or `model` is not an `EditableModel`.
        ModelError: when `model` carries an adapter, is wrapped or quantised.

    Example:
        >>> import errata
        >>> model = errata.load("lab-s")                                            # doctest: +SKIP
        >>> errata.edit(model, [{"subject": s, "prompt": "{} lives in", "target_new": t}])   # doctest: +SKIP
    """
    if not isinstance(model, EditableModel):
        if isinstance(model, nn.Module):
            plain_model(model, type(model).__name__)  # says what is wrong with it, where it could not be one at all
        raise ConfigError(
            f"errata.edit needs a model from errata.load, or EditableModel(your_model, your_tokenizer); it was given "
            f"{type(model).__name__}."
        )
    check_answers(model)
    given = [facts] if isinstance(facts, Fact | Mapping) else list(facts)
    if not given:
        raise EditDataError("errata.edit was given no facts; give a Fact, or a list of at least one.")
    chosen = [f if isinstance(f, Fact) else Fact.from_mapping(f, str(i)) for i, f in enumerate(given, 1)]
    if len({f.id for f in chosen}) < len(chosen):
        chosen = [replace(f, id=str(i)) for i, f in enumerate(chosen, 1)]
    chosen = taught_in_other_words(chosen, wordings)
    check_stream(model, chosen)
    chosen_settings = resolve_settings(method, model, settings)
    stream = EditStream(tuple(chosen), batch_size).taught_by(taught_paraphrases(chosen_settings))
    section = with_retry(GuardSection(enabled=guard is True), chosen_settings)
    editor = with_alternatives(editor_class(method)(chosen_settings), section)
    editor.prepare(model, StatisticsStore(default_cache(), tell=warnings.warn), Random(seed))
    noted = (*remarks(chosen), *held(model, chosen))
    prompts = [f.text for f in chosen]
    before = generate(model, prompts, _TOKENS)
    size = guard if isinstance(guard, Guard) else Guard(policy="rollback" if guard else "continue")
    trajectory = Trajectory(model, editor, guard=size, judge=watch_over(model, section, stream, seed))
    entries: list[Entry] = []
    for _, batch in stream.batches():
        entries += trajectory.advance(batch)
    after = generate(model, prompts, _TOKENS)
    took, causes = _verdicts(model, chosen, entries, chosen_settings.model_dump())
    return EditResult(trajectory, tuple(entries), tuple(chosen), tuple(before), tuple(after), took, causes, noted)


def _verdicts(
    model: EditableModel, facts: Sequence[Fact], entries: Sequence[Entry], method: Mapping[str, Any]
) -> tuple[tuple[bool | None, ...], tuple[str, ...]]:
    """Ask the edited model for every fact in the weights, and say why those that did not take did not."""
    scores = score(model, [(fact.text, fact.target_new) for fact in facts], [fact.join for fact in facts])
    took = tuple(found.exact == 1.0 if entry.applied else None for found, entry in zip(scores, entries, strict=True))
    latest = {(fact.subject, fact.prompt): fact.target_new for fact in facts}  # of several edits the last one stands
    causes = tuple(
        why_not(entry.diagnostics, method, exp(found.logp))
        if taken is False and latest[fact.subject, fact.prompt] == fact.target_new
        else ""
        for fact, found, entry, taken in zip(facts, scores, entries, took, strict=True)
    )
    return took, causes
