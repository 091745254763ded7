"""Take edits of a run directory back, compare its states, and propose its facts anew on another model."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from errata.analysis.ledger import HOLDING
from errata.edits import Fact
from errata.edits.stream import standing
from errata.errors import RunError
from errata.files import write_aside
from errata.models import EditableModel
from errata.probes.canary import LineCanary
from errata.probes.generation import generate
from errata.probes.scoring import score
from errata.studies.correct import GENERATED
from errata.studies.edited import open_edited
from errata.studies.store import RunStore
from errata.trajectory import DiskJournal, Entry

__all__ = ["Difference", "Holding", "Undone", "differences", "facts_to_reapply", "holding", "undo"]

_TOKENS = 8
_FEW = 100  # facts, all of which are asked


@dataclass(frozen=True)
class Undone:
    """What was taken back.

    Args:
        ids: of the edits.
        edits: their numbers, as `errata log` shows them.
        facts: what they taught, in words.
        left: how many edits are in the weights now.
        last: whether they were the last ones; else the others are replayed without them as they were computed, not as
            they would be computed without them.
        finished: whether the run was finished; else it can no longer be resumed.
    """

    ids: tuple[str, ...]
    edits: tuple[int, ...]
    facts: tuple[str, ...]
    left: int
    last: bool
    finished: bool


@dataclass(frozen=True)
class Holding:
    """A fact that stands, as the present model answers it.

    Args:
        edit: its number, as `errata log` shows it.
        id, prompt, target: the fact.
        says: how the model continues the prompt.
        holds: whether each token of the object is the most probable one.
    """

    edit: int
    id: str
    prompt: str
    target: str
    says: str
    holds: bool


@dataclass(frozen=True)
class Difference:
    """One prompt in two states of a model: how each goes on, and KL between their next tokens, in nats."""

    prompt: str
    before: str
    after: str
    kl: float


def undo(
    directory: str | Path, *, last: int | None = None, id: str | None = None, edit: int | None = None, author: str = ""
) -> Undone:
    """Take back the last edits of a run directory, or one by its number or id.

    The journal says what is in the weights, and they are rebuilt from it: one flushed line is the undoing, and no model
    is needed. The weights are then W₀ and the updates that are left, summed in their order: for the last ones exactly
    what they were before.

    Args:
        directory: the run directory.
        last: how many edits, a whole number of batches; 1 where nothing is given.
        id: the id of one edit, or its number where no edit has that for its id; its batch must hold no other.
        edit: the number of one edit, as `errata log` shows it.
        author: who takes them back.

    Raises:
        RunError: when there is no such edit, the id is another edit's number, it shares its update with others, an
            update that is left cannot be read, or the directory is in use.
    """
    store = RunStore(directory)
    store.description()
    with store.lock():
        journal = DiskJournal(store.path, author)
        taught = {fact.id: f"{fact.text} → {fact.target_new}" for fact in store.stream().facts}
        if edit is not None:
            id = _numbered(journal.entries, edit)
        elif id is not None:
            id = _meant(journal.entries, id, taught)
        chosen = journal.chosen(journal.step, last=last, id=id)
        applied = [entry for entry in journal.entries if entry.applied]
        checkpoint = store.last_checkpoint(journal.step)
        gone = {entry.step for entry in chosen}
        for step in journal.active_steps():
            if step not in gone:
                journal.update(step)  # what is left must be there to rebuild from
        (store.path / HOLDING).unlink(missing_ok=True)  # what was measured of the model before
        journal.undo(sorted(gone))
    return Undone(
        ids=tuple(entry.id for entry in chosen),
        edits=tuple(entry.edit for entry in chosen),
        facts=tuple(taught[entry.id] for entry in chosen),
        left=len(applied) - len(chosen),
        last=chosen[-1].edit == applied[-1].edit,
        finished=checkpoint is not None and checkpoint.finished,
    )


def holding(directory: str | Path, ids: Sequence[str], *, model: EditableModel | None = None) -> list[Holding]:
    """Ask the present model for the facts that stand after edits were taken back, and keep the answers for the log.

    An update was computed on top of those before it: without one of them, it may no longer make its fact true. Asked
    are all facts that stand, or where they are many those about the subjects of the edits that were taken back.

    Args:
        directory: the run directory.
        ids: of the edits that were taken back.
        model: the unedited base model, where it is loaded already.
    """
    with closing(open_edited(directory, model=model)) as edited:
        applied = {entry.id: entry.edit for entry in edited.trajectory.journal.entries if entry.applied}
        stand = standing([fact for fact in edited.stream.facts if fact.id in applied])
        subjects = {fact.subject.lower() for fact in edited.stream.facts if fact.id in ids}
        if len(stand) > _FEW:
            stand = [fact for fact in stand if fact.subject.lower() in subjects]
        scores = score(edited.model, [(fact.text, fact.target_new) for fact in stand], [fact.join for fact in stand])
        says = generate(edited.model, [fact.text for fact in stand], _TOKENS)
        found = [
            Holding(applied[fact.id], fact.id, fact.text, fact.target_new, said.strip(), scored.exact == 1.0)
            for fact, scored, said in zip(stand, scores, says, strict=True)
        ]
        content = {held.id: {"holds": held.holds, "says": held.says} for held in found}
        write_aside(Path(directory) / HOLDING, json.dumps(content, ensure_ascii=False).encode())
    return found


def _numbered(entries: Sequence[Entry], number: int) -> str:
    """Return the id of the edit with a number."""
    if not 1 <= number <= len(entries):
        raise RunError(f"there is no edit {number} to undo; errata log shows the numbers, 1 to {len(entries)}.")
    return entries[number - 1].id


def _meant(entries: Sequence[Entry], name: str, taught: Mapping[str, str]) -> str:
    """Return the id that is meant: an edit's own, or that of the edit with this number; ask where it may be either."""
    by_id = next((entry for entry in entries if entry.id == name), None)
    by_number = next((entry for entry in entries if str(entry.edit) == name), None)
    if by_id and by_number and by_id is not by_number:
        raise RunError(
            f"which edit is meant by {name!r}? It is the number of {taught[by_number.id]!r}: --edit {by_number.edit}; "
            f"and the id of {taught[by_id.id]!r}: --edit {by_id.edit}. Nothing was taken back."
        )
    found = by_id or by_number
    return found.id if found else name


def differences(
    directory: str | Path,
    begin: int,
    end: int | None = None,
    prompts: Sequence[str] = (),
    *,
    model: EditableModel | None = None,
) -> list[Difference]:
    """Compare two states of a run directory's model on prompts, what moved most first.

    Args:
        directory: the run directory.
        begin: after how many edits; 0 is the unedited model.
        end: the same; the present where it is not given.
        prompts: what is asked; by default the prompts of the facts edited between the two.
        model: the unedited base model, where it is loaded already.

    Raises:
        RunError: when there is no such step, or nothing to ask.
    """
    with closing(open_edited(directory, model=model)) as edited:
        trajectory = edited.trajectory
        end = trajectory.step if end is None else end
        for step in (begin, end):
            trajectory.check_step(step)
        low, high = sorted((begin, end))
        asked = list(dict.fromkeys(prompts or [fact.text for fact in edited.stream.facts[low:high]]))
        if not asked:
            raise RunError(f"no edit lies between the steps {begin} and {end}; name prompts to ask: --prompts FILE.")
        with trajectory.at(begin) as then:
            before, canary = generate(then, asked, _TOKENS), LineCanary(then, asked)
        with trajectory.at(end) as now:
            after, shifts = generate(now, asked, _TOKENS), canary.shifts(now)
    found = [
        Difference(prompt, old.strip(), new.strip(), kl)
        for prompt, old, new, kl in zip(asked, before, after, shifts, strict=True)
    ]
    return sorted(found, key=lambda d: (d.kl == d.kl, -d.kl))


def facts_to_reapply(
    directory: str | Path, *, refused: bool = False, tell: Callable[[str], None] = lambda message: None
) -> list[Fact]:
    """Return a run directory's facts, to be proposed anew: those in the weights, or those that were refused.

    Args:
        directory: the run directory.
        refused: the refused and failed ones instead.
        tell: receives one remark on what is left out.

    Raises:
        RunError: when there is none.
    """
    stream = RunStore(directory).stream()
    entries = {entry.id: entry for entry in DiskJournal(Path(directory), mend=False).entries}
    wanted = [
        fact
        for fact in stream.facts
        if fact.id in entries
        and (entries[fact.id].status in ("rolled-back", "failed") if refused else entries[fact.id].applied)
    ]
    if not wanted:
        raise RunError(f"{directory} has no {'refused' if refused else 'applied'} edits to propose anew.")
    if left := len(stream) - len(wanted):
        why = "not refused" if refused else "refused, undone or not made"
        tell(f"{left} of {len(stream)} facts are left out: {why}.")
    # What the old model answered is no measure of the new one.
    own = [tuple(check for check in fact.checks if not check.group.startswith(GENERATED)) for fact in wanted]
    return [replace(fact, checks=checks) for fact, checks in zip(wanted, own, strict=True)]
