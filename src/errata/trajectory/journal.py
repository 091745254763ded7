"""The record of what was done: one line an edit, flushed to disk before anything relies on it."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Protocol
from weakref import finalize

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from errata.editors.update import Update
from errata.errors import RunError
from errata.files import append_lines, write_aside
from errata.order import misplaced

__all__ = ["DiskJournal", "Entry", "Journal", "Start"]

_SHOWN = 5  # ids


@dataclass(frozen=True)
class Entry:
    """One edit's line in the journal.

    Args:
        edit: its number, from 1.
        step: how many edits had been made when its batch was through; equals `edit` for batches of one.
        id: the fact's id.
        subject: the fact's subject.
        status: "applied"; "disabling" or "nonfinite" (applied all the same); "rolled-back" (judged so, and not
            applied); "failed" (the editor could not propose); "undone".
        norms: ‖ΔW‖_F per module path.
        relative: the largest ‖ΔW‖_F/‖W₀‖_F over modules.
        verdict: the guard's reason, or the failure's message; empty when there is nothing to say.
        diagnostics: what the editor saw while computing.
        signals: what the guard saw, where it watched a canary; see `Limits`.
        setting: which of the method's settings proposed the update: 0 its own, then those that the guard tried.
        scale: by what the guard multiplied the update.
        seconds: time to propose and apply the batch; the only field that differs between identical runs.
    """

    edit: int
    step: int
    id: str
    subject: str
    status: str
    norms: Mapping[str, float] = field(default_factory=dict)
    relative: float = 0.0
    verdict: str = ""
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    signals: Mapping[str, float] = field(default_factory=dict)
    setting: int = 0
    scale: float = 1.0
    seconds: float = 0.0

    @property
    def applied(self) -> bool:
        """Whether the update is in the weights."""
        return self.status in ("applied", "disabling", "nonfinite")


class Start(Protocol):
    """Where a trajectory may begin: masters and the editor's state after a step."""

    @property
    def step(self) -> int: ...
    @property
    def weights(self) -> Mapping[str, Tensor]: ...
    @property
    def editor(self) -> Mapping[str, Any]: ...


class Journal:
    """Keep entries in memory, and updates as long as they are few; then in files that go with the journal.

    An update of whole matrices, as fine-tuning makes them, is as large as what it edits: kept in memory, every edit of
    a 7B model would hold 180 MB more.

    Args:
        held: bytes of updates that stay in memory.
    """

    def __init__(self, held: int = 2**26) -> None:
        self.entries: list[Entry] = []
        self.undone = 0
        """How many times edits were taken back."""
        self._updates: dict[int, Update] = {}
        self._room = held
        self._spilled: Path | None = None

    @property
    def step(self) -> int:
        """How many edits have been made or refused."""
        return self.entries[-1].step if self.entries else 0

    def record(self, entries: Sequence[Entry], update: Update | None) -> None:
        """Keep one batch: its update first, then its entries, which make it count."""
        if update is not None:
            self._store(entries[-1].step, update)
        self._append([asdict(e) for e in entries])
        self.entries.extend(entries)

    def chosen(self, step: int, *, last: int | None = None, id: str | None = None) -> list[Entry]:
        """Return the applied edits up to `step` that an undo means: the last ones, or the one with an id.

        Raises:
            RunError: when there is no such edit, or it shares its update with others.
        """
        active = [e for e in self.entries if e.applied and e.step <= step]
        if id is not None:
            found = [e for e in active if e.id == id]
            if not found:
                was = {e.id: e.status for e in self.entries if e.step <= step}
                if id in was:
                    why = {"undone": "was undone already", "rolled-back": "was refused"}.get(was[id], was[id])
                    raise RunError(f"the edit {id!r} {why}: there is no applied edit with this id to undo.")
                ids = ", ".join(e.id for e in active[-_SHOWN:]) or "none"
                which = "the last applied are" if len(active) > _SHOWN else "applied are"
                raise RunError(f"there is no edit with the id {id!r} to undo; {which} {ids}.")
            if shared := [e.id for e in active if e.step == found[0].step and e.id != id]:
                raise RunError(
                    f"edit {id!r} shares its update with {', '.join(shared)}; undo the whole batch with last=."
                )
            return found
        count = 1 if last is None else last
        found = active[len(active) - count :] if 0 < count <= len(active) else []
        if not found:
            raise RunError(f"{count} edits cannot be undone: {len(active)} are applied.")
        before = active[: len(active) - count]
        if before and before[-1].step == found[0].step:
            raise RunError(f"the last {count} edits end in the middle of a batch; undo whole batches.")
        return found

    def undo(self, steps: Sequence[int]) -> None:
        """Mark the batches that ended at these steps as undone."""
        self._append([{"undo": list(steps)}])
        self._mark_undone(steps)

    def update(self, step: int) -> Update:
        """Return the update of the batch that ended at `step`."""
        if step in self._updates:
            return self._updates[step]
        return _read(self._spill(step))

    def active_steps(self, until: int | None = None) -> list[int]:
        """Return the steps whose updates are in the weights, up to and including `until`."""
        steps = dict.fromkeys(e.step for e in self.entries if e.applied)
        return [s for s in steps if until is None or s <= until]

    def _mark_undone(self, steps: Sequence[int]) -> None:
        gone = set(steps)
        self.undone += 1
        self.entries = [replace(e, status="undone") if e.step in gone and e.applied else e for e in self.entries]

    def _store(self, step: int, update: Update) -> None:
        tensors = update.tensors()
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if size <= self._room:
            self._room -= size
            self._updates[step] = update
            return
        try:
            self._spill(step).write_bytes(save(tensors))
        except OSError as e:
            raise RunError(
                f"{self._spill(step)} could not be written: {e.strerror}. Updates are kept there to be undone; make "
                f"room, or set TMPDIR to a directory that has some."
            ) from e

    def _spill(self, step: int) -> Path:
        """Return the file of an update for which memory has no room."""
        if self._spilled is None:
            self._spilled = Path(mkdtemp(prefix="errata-updates-"))
            finalize(self, rmtree, self._spilled, ignore_errors=True)  # it goes when the journal does
        return self._spilled / f"step-{step:06d}.safetensors"

    def _append(self, lines: Sequence[Mapping[str, object]]) -> None:
        """Nothing to do in memory."""


class DiskJournal(Journal):
    """Keep entries in `journal.jsonl` and updates in `updates/`; what the file holds is what happened.

    A batch's lines are written in one call and flushed; a torn or incomplete last batch, as a crash leaves it, is cut
    off when the journal is opened. When a batch was made or taken back, and by whom, stands in `ledger.jsonl`, apart
    from what identical runs have in common; it is written before the journal's line, so that no edit is without.

    Args:
        run: the run directory.
        author: who makes the edits, as they wish to be called; nothing is looked up.
        mend: whether to cut; not beside a process that may be writing, whose half-written batch is only passed over.

    Raises:
        RunError: when the journal is damaged before its last batch, a lost or a doubled line included.
    """

    def __init__(self, run: Path, author: str = "", *, mend: bool = True) -> None:
        super().__init__()
        self._file = run / "journal.jsonl"
        self._ledger = run / "ledger.jsonl"
        self._author = author
        self._folder = run / "updates"
        if self._file.exists():
            self._recover(mend)

    def _recover(self, mend: bool) -> None:
        content = self._file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        kept = 0
        batch: list[Entry] = []
        position = 0
        for number, line in enumerate(whole.splitlines(keepends=True), 1):
            position += len(line)
            try:
                record = json.loads(line)
                before = (batch or self.entries)[-1:]
                if why := misplaced(record, len(self.entries) + len(batch), before[0].step if before else 0):
                    raise ValueError(why)
                if "undo" in record:
                    self._mark_undone(record["undo"])
                    kept = position
                    continue
                batch.append(Entry(**record))
            except (ValueError, TypeError, KeyError) as e:
                raise RunError(
                    f"{self._file}, line {number} is damaged ({e}). Restore the file from a copy, or start a new run."
                ) from e
            if batch[-1].edit == batch[-1].step:
                self.entries.extend(batch)
                batch, kept = [], position
        if mend and kept < len(content):
            with self._file.open("r+b") as f:
                f.truncate(kept)
                f.flush()
                os.fsync(f.fileno())

    def update(self, step: int) -> Update:
        """Read the update of the batch that ended at `step`."""
        return _read(self.file(step))

    def file(self, step: int) -> Path:
        """Return where the update of the batch that ended at `step` lies."""
        return self._folder / f"step-{step:06d}.safetensors"

    def _store(self, step: int, update: Update) -> None:
        write_aside(self.file(step), save(update.tensors()))

    def _append(self, lines: Sequence[Mapping[str, object]]) -> None:
        what = {"undo": lines[0]["undo"]} if "undo" in lines[0] else {"step": lines[-1]["step"]}
        at = datetime.now(UTC).isoformat(timespec="seconds")
        append_lines(self._ledger, [{**what, "at": at, "author": self._author}])
        append_lines(self._file, lines)


def _read(file: Path) -> Update:
    """Read an update from its file."""
    try:
        return Update.from_tensors(load_file(file))
    except (OSError, SafetensorError) as e:
        raise RunError(
            f"{file} is missing or damaged ({e}); the weights after edit {int(file.stem[5:])} cannot be rebuilt."
        ) from e
