"""A model on its way through a sequence of edits: the only place where weights change."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from errata.editors.base import Editor
from errata.editors.ladder import Ladder
from errata.editors.update import Update
from errata.edits import Fact
from errata.errors import RunError
from errata.models import EditableModel
from errata.trajectory.deciding import BySize, Judge
from errata.trajectory.guard import Guard, Sizes, largest
from errata.trajectory.journal import Entry, Journal, Start

__all__ = ["Trajectory"]


class Trajectory:
    """Edit a model step by step, with every step recorded, viewable and undoable.

    Masters of the edited matrices are kept in float32 at least (float64 for a float64 model), and the model receives
    their rounded copies: rank-one adds made in place in bfloat16 drift 15 % from their sum after 200 edits.

    Args:
        model: the unedited model.
        editor: a prepared editor.
        guard: judges each update by its size before it lands.
        judge: decides about each batch; by default by its size alone.
        journal: where steps are recorded; in memory by default. Steps that it already holds are applied at once.
        start: a checkpoint to begin at instead; `replay` then applies the journal's later steps one by one.
    """

    def __init__(
        self,
        model: EditableModel,
        editor: Editor,
        *,
        guard: Guard | None = None,
        judge: Judge | None = None,
        journal: Journal | None = None,
        start: Start | None = None,
    ) -> None:
        self.model = model
        self.editor = editor
        self.guard = guard or Guard()
        self.judge = judge or BySize()
        self.journal = journal or Journal()
        self._precision = torch.promote_types(model.dtype, torch.float32)
        self._base: dict[str, Tensor] = {}
        self._masters: dict[str, Tensor] = {}
        self._norms: dict[str, float] = {}
        self._look_back()
        self._fresh = dict(editor.state_dict())
        self._detach = editor.attach(model)
        self.step = 0
        """How many edits have been made or refused so far."""
        try:
            if start is None:
                while self.replay():
                    pass
            else:
                self._begin_at(start)
        except BaseException:
            self.close()  # the model is the caller's, and nobody else could take the hooks off again
            raise

    def _begin_at(self, start: Start) -> None:
        for path, weight in start.weights.items():
            self._master(path).copy_(weight)
        self._write(self._masters)
        self.editor.load_state_dict(start.editor)
        self.step = start.step

    def replay(self) -> list[Entry]:
        """Apply the journal's next recorded batch and return its entries; none when all are applied."""
        recorded = self.journal.entries
        entries: list[Entry] = []
        if self.step < len(recorded):
            entries = recorded[self.step : recorded[self.step].step]
            if entries[0].applied:
                self._apply(self.journal.update(entries[0].step))
            self.step = entries[0].step
        return entries

    @property
    def settings(self) -> int:
        """How many settings of the method there are to propose with."""
        return len(self.editor.rungs) if isinstance(self.editor, Ladder) else 1

    def propose(self, batch: Sequence[Fact], setting: int = 0) -> Update:
        """Compute the batch's update with one of the method's settings, in the precision in which it is stored."""
        editor = self.editor.rungs[setting] if isinstance(self.editor, Ladder) else self.editor
        return editor.propose(self.model, batch).to(self._precision)

    def advance(self, batch: Sequence[Fact]) -> list[Entry]:
        """Propose, judge, record and apply one batch.

        A batch that its editor cannot handle is recorded as failed and leaves the model as it is.

        Returns:
            The journal's entries, one a fact.
        """
        started = time.perf_counter()
        found = self.judge.decide(self, batch)
        update = found.update
        norms = update.norms() if update else {}
        worst = largest(self.relative(update)) if update else 0.0
        last = self.step + len(batch)
        seconds = time.perf_counter() - started
        entries = [
            Entry(
                edit=self.step + i + 1,
                step=last,
                id=fact.id,
                subject=fact.subject,
                status=found.status,
                norms=norms,
                relative=worst,
                verdict=found.reason,
                diagnostics=dict(update.diagnostics) if update else {},
                signals=found.signals,
                setting=found.setting,
                scale=found.scale,
                seconds=round(seconds, 4),
            )
            for i, fact in enumerate(batch)
        ]
        self.journal.record(entries, update if entries[0].applied else None)
        self.step = last
        if update is not None and entries[0].applied:
            self.sizes.add(worst)
            self._apply(update)
        return entries

    @contextmanager
    def trying(self, update: Update) -> Iterator[EditableModel]:
        """Show the model as it would be with an update. Exactly what was there comes back afterwards."""
        present = {
            path: self._masters[path]
            if path in self._masters
            else self.model.weight(path).to(self._precision, copy=True)
            for path in update.changes
        }
        memory = dict(self.editor.state_dict()) if self._detach else None
        try:
            for path, change in update.changes.items():
                tried = present[path].clone()
                change.add_to(tried)
                self.model.write(path, tried)
            if memory is not None:
                self.editor.remember(update)
            yield self.model
        finally:
            self._write(present)
            if memory is not None:
                self.editor.load_state_dict(memory)

    def check_step(self, step: int) -> None:
        """Refuse a number of edits after which no batch ended.

        Raises:
            RunError: names the last steps that there are.
        """
        steps = [0, *dict.fromkeys(e.step for e in self.journal.entries if e.step <= self.step)]
        if step not in steps:
            raise RunError(f"there is no step {step}: steps so far end at {', '.join(map(str, steps[-5:]))}.")

    @contextmanager
    def at(self, step: int) -> Iterator[EditableModel]:
        """Show the model as it was after `step` edits; 0 is the unedited model. The present comes back afterwards.

        Raises:
            RunError: when there has been no such step.
        """
        self.check_step(step)
        self._check_present()
        then = self._rebuilt(self.journal.active_steps(step))
        memory = dict(self.editor.state_dict()) if self._detach else None
        try:
            self._write(then)
            if memory is not None:
                self._recall(self.journal.active_steps(step))
            yield self.model
        finally:
            self._write(self._masters)
            if memory is not None:
                self.editor.load_state_dict(memory)

    def undo(self, *, last: int | None = None, id: str | None = None) -> list[str]:
        """Take back the last edits, or one edit by id.

        The weights become what they would be had these updates never been added: the last ones exactly; one in the
        middle by replaying the others as they were computed, not as they would be computed without it.

        Args:
            last: how many edits, a whole number of batches.
            id: the id of one edit; its batch must hold no other.

        Returns:
            The ids taken back.

        Raises:
            RunError: when there is no such edit, it shares its update with others, or an update that is left cannot be
                read; journal and weights are as they were then.
        """
        chosen = self.journal.chosen(self.step, last=last, id=id)
        self._check_present()
        gone = {e.step for e in chosen}
        left = [step for step in self.journal.active_steps(self.step) if step not in gone]
        masters = self._rebuilt(left)  # first: where an update is missing, the journal stays as it is
        self.journal.undo(sorted(gone))
        self._look_back()
        self._masters = masters
        self._write(masters)
        self._recall(left)
        return [e.id for e in chosen]

    def close(self) -> None:
        """Take off the model what the editor has attached to it; the weights stay as they are."""
        if self._detach:
            self._detach()
            self._detach = None

    def restore(self) -> None:
        """Give the model back as it was before the first edit, with nothing attached; the trajectory is over."""
        self.close()
        self._write(self._base)

    def base(self) -> Mapping[str, Float[Tensor, "out in"]]:
        """Return W₀ of every matrix edited so far."""
        return self._base

    def masters(self) -> Mapping[str, Float[Tensor, "out in"]]:
        """Return the present W of every matrix edited so far, in full precision."""
        return self._masters

    def _master(self, path: str) -> Tensor:
        if path not in self._base:
            self._base[path] = self.model.weight(path).to(self._precision, copy=True).contiguous()
            self._masters[path] = self._base[path].clone()
        return self._masters[path]

    def relative(self, update: Update) -> dict[str, float]:
        """Return ‖ΔW‖_F/‖W₀‖_F of an update for each module path; infinity against a matrix of zeros."""
        sizes = {path: (norm, self._size(path)) for path, norm in update.norms().items()}
        return {path: norm / size if size else math.inf for path, (norm, size) in sizes.items()}

    def _size(self, path: str) -> float:
        """Return ‖W₀‖_F."""
        # A bias is one more column of its module's W; by itself it may well be zeros.
        path = path.removesuffix(".bias")
        # Only an applied update may register its matrices: replaying a refused one must leave no trace either.
        if path in self._norms:
            return self._norms[path]
        size = float(self._base.get(path, self.model.weight(path)).double().norm())
        if path in self._base:
            self._norms[path] = size
        return size

    def _look_back(self) -> None:
        """Let guard and judge know what stands in the journal."""
        entries = self.journal.entries
        self.sizes = Sizes(e.relative for e in entries if e.applied and e.edit == e.step)
        self.judge.recall(entries)

    def _apply(self, update: Update) -> None:
        for path, change in update.changes.items():
            change.add_to(self._master(path))
        self._write({path: self._masters[path] for path in update.changes})
        self.editor.remember(update)

    def _rebuilt(self, steps: Sequence[int]) -> dict[str, Tensor]:
        """Add the updates of the given steps to W₀, in their order: the same sums as when they were made."""
        weights = {path: base.clone() for path, base in self._base.items()}
        for step in steps:
            for path, change in self.journal.update(step).changes.items():
                if path not in weights:
                    self._master(path)
                    weights[path] = self._base[path].clone()
                change.add_to(weights[path])
        return weights

    def _recall(self, steps: Sequence[int]) -> None:
        """Give the editor the memory it has when the updates of these steps, and no others, were applied."""
        self.editor.load_state_dict(self._fresh)
        for step in steps:
            self.editor.remember(self.journal.update(step))

    def _check_present(self) -> None:
        """Refuse to go back when something else has written to the matrices: its changes would be lost silently."""
        for path, master in self._masters.items():
            here = self.model.weight(path)
            if not torch.equal(here.nan_to_num(), master.to(here.dtype).nan_to_num()):
                raise RunError(
                    f"{path} is not as this trajectory left it: something else has changed the model since. Undo that "
                    f"first, or load the model anew."
                )

    def _write(self, weights: Mapping[str, Tensor]) -> None:
        for path, weight in weights.items():
            self.model.write(path, weight)
