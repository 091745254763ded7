"""Judge a proposed batch before it lands: accept it, damp it, propose it anew with another setting, or refuse it."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

from errata.editors.update import Change, Update, total
from errata.edits import Fact
from errata.errors import EditDataError, NumericalError
from errata.models import EditableModel
from errata.trajectory.guard import Guard, Sizes, largest
from errata.trajectory.journal import Entry
from errata.trajectory.limits import Limits, Signals

__all__ = ["BySize", "Canary", "Course", "Finding", "Judge", "Watch"]


class Course(Protocol):
    """What a judge may ask of a trajectory."""

    model: EditableModel
    guard: Guard
    sizes: Sizes
    step: int

    @property
    def settings(self) -> int: ...
    def propose(self, batch: Sequence[Fact], setting: int = 0) -> Update: ...
    def relative(self, update: Update) -> dict[str, float]: ...
    def trying(self, update: Update) -> AbstractContextManager[EditableModel]: ...


class Canary(Protocol):
    """Prompts that no edit should change, with what the unedited model makes of them."""

    def measure(self, model: EditableModel, batch: Sequence[Fact]) -> Signals:
        """Return `kl`, `kept` and `perplexity` of the canary, and `target` of the batch; changes nothing."""
        ...


@dataclass(frozen=True)
class Finding:
    """What has been decided about a batch, and why.

    Args:
        update: what was proposed; None where the editor could propose nothing.
        status: as in the journal: applied, disabling, nonfinite, rolled-back or failed.
        reason: in words; empty when there is nothing to say.
        signals: on which the decision rests.
        setting: which of the method's settings proposed it: 0 its own, then those that the guard tries in turn.
        scale: by what the update has been multiplied.
    """

    update: Update | None
    status: str
    reason: str = ""
    signals: Signals = field(default_factory=dict)
    setting: int = 0
    scale: float = 1.0


class Judge(Protocol):
    """Decides about a batch; what it must know of the past it takes from the journal."""

    def recall(self, entries: Sequence[Entry]) -> None:
        """Take up where the journal leaves off."""
        ...

    def decide(self, course: Course, batch: Sequence[Fact]) -> Finding:
        """Have the batch proposed, and decide about it."""
        ...


class BySize(Judge):
    """Judge by the update's size alone, without looking at the model; the guard's policy says what follows."""

    def recall(self, entries: Sequence[Entry]) -> None:
        """Nothing: the sizes of the past are the trajectory's."""

    def decide(self, course: Course, batch: Sequence[Fact]) -> Finding:
        """Propose the batch once; what cannot be proposed has failed."""
        try:
            update = course.propose(batch)
        except (EditDataError, NumericalError) as e:
            return Finding(None, "failed", str(e))
        verdict = course.guard.judge(course.relative(update), course.sizes)
        status: str = "applied" if verdict.status == "ok" else verdict.status
        if verdict.status != "ok" and course.guard.policy == "rollback":
            status = "rolled-back"
        return Finding(update, status, verdict.reason)


class Watch(Judge):
    """Judge by what an update does to a canary, on trial; see `Limits`.

    A setting that cost too much is not gone back to: the next edits begin with the one that the last edit landed with.

    Args:
        limits: what is allowed.
        canary: on which damage is measured.
        edits: how many edits the stream has; None where that is not known.
    """

    def __init__(self, limits: Limits, canary: Canary, edits: int | None = None) -> None:
        self.limits = limits
        self._canary = canary
        self._edits = edits
        self._level: Signals | None = None
        self._setting = 0

    def recall(self, entries: Sequence[Entry]) -> None:
        """Go on with the setting of the last applied edit; the canary's level is measured when it is needed."""
        self._level = None
        self._setting = next((entry.setting for entry in reversed(entries) if entry.applied), 0)

    def decide(self, course: Course, batch: Sequence[Fact]) -> Finding:
        """Propose the batch with one setting after another until an update costs little enough."""
        refused: list[Finding] = []
        for setting in range(self._setting, course.settings):
            try:
                found = self._proposed(course, batch, setting)
            except EditDataError as e:  # no setting mends a fact
                return Finding(None, "failed", str(e), setting=setting)
            except NumericalError as e:
                found = Finding(None, "failed", str(e), setting=setting)
            if found.status == "applied":
                self._level, self._setting = found.signals, setting
                why = f"made with setting {setting}, since {_joined(refused)}" if refused else ""
                return replace(found, reason="; ".join(filter(None, (why, found.reason))))
            refused.append(found)
        return replace(refused[-1], reason=_joined(refused))

    def _proposed(self, course: Course, batch: Sequence[Fact], setting: int) -> Finding:
        """Try one setting's update as it is, then smaller, as long as that teaches the facts."""
        update = course.propose(batch, setting)
        first: Finding | None = None
        for scale in (1.0, *(self.limits.damp if self._may_damp(update) else ())):
            found = self._tried(course, batch, replace(update, changes=_scaled(update, scale)))
            found = replace(found, setting=setting, scale=scale)
            teaches = found.signals.get("target", 0.0) == 1.0
            if found.status == "applied" and (first is None or teaches):
                damped = f"damped to {scale:g} of its size, since {first.reason}" if first else ""
                return replace(found, reason=damped)
            first = first or found
            tried = "target" in found.signals
            if (tried and not teaches) or not math.isfinite(found.signals["relative"]):
                break  # smaller is no help
        assert first is not None
        return first

    def _may_damp(self, update: Update) -> bool:
        """Return whether a smaller update could be better, and what is to be remembered of it would still be true."""
        # Keys, which stand under their module's path, are the same at any size; what stands under other names, such as
        # the values that keys are given, may be of the whole update: the next edit would restore its full size.
        keys_alone = update.memory.keys() <= update.changes.keys()
        return bool(update.changes) and keys_alone and _condition(update) <= self.limits.condition

    def _tried(self, course: Course, batch: Sequence[Fact], update: Update) -> Finding:
        """Judge by size and condition first, which cost nothing, then on trial."""
        relative = course.relative(update)
        signals = {"relative": largest(relative)}
        if "condition" in update.diagnostics:
            signals["condition"] = update.diagnostics["condition"]
        reason = course.guard.judge(relative, course.sizes).reason
        if not reason and _condition(update) > self.limits.condition:
            reason = f"its solve has the condition number {signals['condition']:.2g}, beyond what float64 can carry"
        if not reason:
            if self._level is None:
                self._level = self._canary.measure(course.model, ())
            with course.trying(update) as model:
                signals |= self._canary.measure(model, batch)
            left = None if self._edits is None else self._edits - course.step
            reason = self.limits.objection(signals, self._level, left, len(batch))
        return Finding(update, "rolled-back" if reason else "applied", reason, signals)


def _scaled(update: Update, scale: float) -> Mapping[str, Change]:
    """Return an update's changes, each multiplied."""
    return update.changes if scale == 1.0 else {path: total([(scale, c)]) for path, c in update.changes.items()}


def _condition(update: Update) -> float:
    return update.diagnostics.get("condition", 0.0)


def _joined(refused: Sequence[Finding]) -> str:
    return "; then ".join(dict.fromkeys(found.reason for found in refused))
