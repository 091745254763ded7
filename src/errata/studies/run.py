"""The sequential run: edit after edit, with probes, checkpoints, and a resume that continues as if never stopped."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from errata.analysis.chance import guessed
from errata.edits import EditStream, Fact
from errata.errors import ErrataError, RunError
from errata.models import EditableModel, identity_of
from errata.probes.rows import Row
from errata.studies.description import describe
from errata.studies.edited import recorded_recipe
from errata.studies.guarded import guard_of, watch_over
from errata.studies.measuring import is_due, measured
from errata.studies.progress import Progress
from errata.studies.recipe import Recipe
from errata.studies.session import Session, open_session, prepare, sources
from errata.studies.store import Checkpoint, RunStore
from errata.studies.tracking import tracked
from errata.studies.unchanged import kept_states
from errata.trajectory import DiskJournal, Trajectory

__all__ = ["Enough", "resume", "run"]

Enough = Callable[[Sequence[Row]], bool]
"""Says from the rows of one step, every probe's, whether a run need not go on."""


def run(
    recipe: Recipe,
    out: Path,
    progress: Progress | None = None,
    model: EditableModel | None = None,
    stream: EditStream | None = None,
    until: int | None = None,
    enough: Enough = lambda rows: False,
) -> Path:
    """Run a recipe into a new run directory.

    Args:
        recipe: what to run.
        out: the run directory; absent or empty.
        progress: told of every edit.
        model: used instead of loading the recipe's; given back unedited.
        stream: used instead of reading the recipe's data set; to resume such a run its own `facts.jsonl` is read.
        until: pause once so many edits are made, as if interrupted there; all of them when None.
        enough: pause after the step for whose rows this is true.

    Returns:
        The run directory.

    Raises:
        RunError: when `out` holds a run or other files, or is in use by another process.
    """
    progress = progress or Progress()
    store = RunStore(out)
    store.check_free()
    progress.doing(f"loading {recipe.model.name}", 0, 1)
    session = open_session(recipe, progress.tell, model, stream)
    progress.doing(f"loading {recipe.model.name}", 1, 1)
    with store.lock():
        store.check_free()  # another process may have run here while the model was loaded
        config = session.recipe.model_dump(mode="json")
        identity = str(identity_of(session.model))
        store.begin(describe(config, session.stream, identity, sources(session), session.probes), session.stream)
        try:
            with tracked(session.recipe.run.tracker, config, out, progress) as told:
                _Loop(session, store, told, lent=model is not None, until=until, enough=enough).go()
        except ErrataError:
            store.abandon()
            raise
    return out


def resume(
    out: Path,
    progress: Progress | None = None,
    model: EditableModel | None = None,
    until: int | None = None,
    enough: Enough = lambda rows: False,
) -> Path:
    """Continue a run that was interrupted at any point; a finished one is left as it is.

    Args:
        out: the run directory.
        progress: told of every edit.
        model: the unedited model, used instead of loading it; given back unedited.
        until: pause once so many edits are made; all of them when None.
        enough: pause after the step for whose rows this is true.

    Raises:
        ResumeError: when model or facts are not those the run was begun with.
    """
    progress = progress or Progress()
    store = RunStore(out)
    recipe = recorded_recipe(store)
    given = recipe.edits.dataset == "jsonl" and recipe.edits.path is None
    session = open_session(recipe, progress.tell, model, store.stream() if given else None)
    with store.lock():
        store.check(session.model, session.stream, sources(session))
        with tracked(session.recipe.run.tracker, session.recipe.model_dump(mode="json"), out, progress) as told:
            _Loop(session, store, told, lent=model is not None, until=until, enough=enough).go()
    return out


class _Loop:
    """One pass over the stream.

    Rows are buffered and written at checkpoints. After an interruption the pass begins at the last checkpoint: batches
    that the journal holds are applied again and probed again, the rest are computed. Since probes are deterministic,
    rows, journal and weights come out as if nothing had happened.
    """

    def __init__(
        self, session: Session, store: RunStore, progress: Progress, *, lent: bool, until: int | None, enough: Enough
    ) -> None:
        self.session = session
        self.store = store
        self.progress = progress
        self.lent = lent
        self.until = len(session.stream) if until is None else until
        self.enough = enough
        self.rows: dict[str, list[Row]] = {probe.name: [] for probe in session.probes}

    def go(self) -> None:
        """Run from where the directory stands to the end of the stream."""
        session, store = self.session, self.store
        journal = DiskJournal(store.path, session.recipe.run.author)
        checkpoint = store.last_checkpoint(journal.step)
        if checkpoint is not None and checkpoint.finished:
            self.progress.tell(f"{store.path} is finished at edit {checkpoint.step}.")
            return
        if checkpoint is not None and checkpoint.undone != journal.undone:
            raise RunError(
                f"edits of {store.path} were taken back after its last checkpoint; a run with undone edits is not "
                f"continued. Start a new one without them."
            )
        with closing(kept_states(session.model, store.path)) as self.lower:
            self._go(journal, checkpoint)

    def _go(self, journal: DiskJournal, checkpoint: Checkpoint | None) -> None:
        session = self.session
        prepare(session, self.progress.doing, tell=self.progress.tell)
        recipe, guard = session.recipe, guard_of(session.recipe)
        self.progress.doing("reading the canary", 0, 1)
        self.watch = watch_over(session.model, recipe.guard, session.stream, recipe.run.seed, self.progress.tell)
        self.progress.doing("reading the canary", 1, 1)
        # Without a checkpoint everything is applied and measured again from the unedited model on.
        begin = checkpoint or Checkpoint(0, {}, session.proposer.state_dict())
        self.trajectory = Trajectory(
            session.model, session.proposer, guard=guard, judge=self.watch, journal=journal, start=begin
        )
        try:
            self._follow(journal, first=checkpoint is None)
        finally:
            if self.lent:
                self.trajectory.restore()

    def _follow(self, journal: DiskJournal, *, first: bool) -> None:
        session, guard, watch = self.session, self.trajectory.guard, self.watch
        self.facts = facts = {fact.id: fact for fact in session.stream.facts}
        start = self.trajectory.step
        self.edited = [facts[e.id] for e in journal.entries if e.applied and e.step <= start]
        self.progress.begin(start, len(session.stream))
        if first:
            found = self._probe(0, (), final=False)
            if self.enough(found):
                self.until = 0
            self.progress.measured(self.rows)
            for remark in guessed((row.metric, row.value) for rows in self.rows.values() for row in rows):
                self.progress.tell(f"warning: {remark}")
            self._checkpoint(0, finished=False)
        before = start
        for step, batch in session.stream.batches(start):
            if before >= self.until:
                self.progress.tell(f"paused at edit {before} of {len(session.stream)}")
                break
            began = time.perf_counter()
            entries = self.trajectory.replay() or self.trajectory.advance(batch)
            if entries[0].applied:
                self.edited += batch
            disabling = ("disabling", "nonfinite", "rolled-back") if watch else ("disabling", "nonfinite")
            stop = entries[0].status in disabling and guard.policy == "stop"
            final = stop or step == len(session.stream)
            if self.enough(self._probe(step, batch, final=final, before=before)):
                self.until = step
            self.progress.edited(entries, self.rows, time.perf_counter() - began)
            if final or step >= self.until or step // self._every > before // self._every:
                self._checkpoint(step, finished=final)
            before = step
            if stop:
                self.progress.tell(f"stopped: edit {entries[0].edit} ({entries[0].subject}) — {entries[0].verdict}")
                break
        self.progress.end()

    @property
    def _every(self) -> int:
        return self.session.recipe.run.checkpoint_every

    def _probe(self, step: int, batch: Sequence[Fact], *, final: bool, before: int = 0) -> list[Row]:
        found = []
        due = [probe for probe in self.session.probes if final or is_due(probe, step, before)]
        asked = measured(
            self.session, self.trajectory, self.lower, due, batch, self.edited, final=final, doing=self.progress.doing
        )
        for probe, rows in asked:
            self.rows[probe.name].extend(rows)
            found += rows
        return found

    def _checkpoint(self, step: int, *, finished: bool) -> None:
        """Write the rows, then the checkpoint that says they are complete."""
        for name, rows in self.rows.items():
            self.store.write_rows(name, step, rows)
            rows.clear()
        state = self.trajectory.editor.state_dict()
        undone = self.trajectory.journal.undone
        self.store.write_quarantine([e for e in self.trajectory.journal.entries if e.step <= step], self.facts)
        self.store.note_peak_memory(self.session.model.device)
        self.store.write_checkpoint(Checkpoint(step, self.trajectory.masters(), state, finished, undone))
