"""Measure steps of a run that are past, from its updates: in another process than the run's, also while it goes on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errata.editors.base import Editor
from errata.editors.settings import EditorSettings
from errata.errors import RunError
from errata.files import write_aside
from errata.models import EditableModel
from errata.probes.base import Probe
from errata.probes.rows import write_rows
from errata.studies.edited import Recorded, recorded_recipe
from errata.studies.measuring import is_due, measured
from errata.studies.progress import Progress
from errata.studies.recipe import ProbeSection, Recipe
from errata.studies.session import Session, build_probe, open_session, prepare, prepare_probes
from errata.studies.store import Checkpoint, RunStore
from errata.studies.unchanged import kept_states
from errata.trajectory import DiskJournal, Trajectory

__all__ = ["Evaluation", "evaluate", "open_steps", "part_of"]

_SCHEDULE = ("every", "also_at", "at_start")  # settings that say when, not what


@dataclass(frozen=True)
class Evaluation:
    """A probe to be asked at past steps of a run."""

    run: Path
    probe: ProbeSection
    steps: tuple[int, ...]


def part_of(run: Path, probe: str, step: int) -> Path:
    """Return the file of one step's rows, told by its name from those that the run itself writes."""
    return run / "probes" / probe / f"part-at-{step:06d}.parquet"


def open_steps(run: Path, probe: ProbeSection, steps: Sequence[int] | None = None) -> list[int]:
    """Return the steps at which a probe has not been asked yet, neither by the run nor beside it.

    Args:
        run: the run directory.
        probe: the probe with its settings.
        steps: which are wanted; those of the probe's own schedule, up to where the run is now, when None.

    Raises:
        RunError: when the run has no such step, or its rows of the probe were measured with other settings.
    """
    store = RunStore(run)
    recipe = recorded_recipe(store)
    asked = build_probe(probe.name, probe.settings)
    own = _own(recipe, probe.name)
    _check_settings(run, asked, own)
    before = _ends(DiskJournal(run, mend=False))
    last = _last(store, recipe, max(before))
    wanted = [s for s, b in before.items() if s == last or is_due(asked, s, b)] if steps is None else list(steps)
    if unknown := [s for s in wanted if s not in before]:
        raise RunError(
            f"{run} has no step {unknown[0]}: its steps so far are 0 and, at the ends of batches, up to {max(before)}."
        )
    done = {s for s in wanted if own and (s == last or is_due(own, s, before[s]))}
    return [s for s in sorted({*wanted} - done) if not part_of(run, probe.name, s).exists()]


def evaluate(asked: Evaluation, model: EditableModel | None = None, progress: Progress | None = None) -> None:
    """Rebuild steps of a run from its updates, ask a probe at each, and write the rows that the run would have written.

    Each step's rows are one file, written whole or not at all; the run is not touched, and need not have ended.

    Args:
        asked: run, probe and steps.
        model: the unedited base model, used instead of loading it; given back unedited.
        progress: told of remarks, and how far it is.

    Raises:
        RunError: when the run is damaged or has no such step.
        ResumeError: when the model is not the one that the run was begun with.
    """
    store, progress = RunStore(asked.run), progress or Progress()
    recipe = recorded_recipe(store).model_copy(update={"probes": (asked.probe,)})
    session = open_session(recipe, progress.tell, model, store.stream())
    store.check_model(session.model)
    editor = _replaying(session, progress)
    journal = DiskJournal(asked.run, mend=False)
    start = Checkpoint(0, {}, editor.state_dict())
    trajectory = Trajectory(session.model, editor, journal=journal, start=start)
    try:
        _measure(session, trajectory, asked, _last(store, recipe, journal.step), progress)
    finally:
        trajectory.restore()


def _measure(session: Session, trajectory: Trajectory, asked: Evaluation, last: int, progress: Progress) -> None:
    (probe,) = session.probes
    facts = {fact.id: fact for fact in session.stream.facts}
    edited = []
    with closing(kept_states(session.model, asked.run)) as lower:
        for step, batch_ids, applied in _steps(trajectory):
            progress.doing("replaying and measuring", step, max(asked.steps) + 1)
            batch = [facts[id] for id in batch_ids]
            edited += batch if applied else []
            if step in asked.steps:
                final = step == last
                found = measured(session, trajectory, lower, [probe], batch, edited, final=final)
                rows = [row for _, rows in found for row in rows]
                _write_settings(asked.run, probe)
                write_rows(part_of(asked.run, probe.name, step), rows)
            if step >= max(asked.steps):
                break
    progress.doing("replaying and measuring", max(asked.steps) + 1, max(asked.steps) + 1)


def _steps(trajectory: Trajectory) -> Iterator[tuple[int, list[str], bool]]:
    """Yield every step with the ids of its batch, and whether its update is in the weights, as they are replayed."""
    yield 0, [], False
    while entries := trajectory.replay():
        yield trajectory.step, [e.id for e in entries], entries[0].applied


def _replaying(session: Session, progress: Progress) -> Editor:
    """Return what a trajectory replays with: the method where it works beside the weights, else a stand-in."""
    if type(session.editor).attach is not Editor.attach:
        prepare(session, progress.doing, tell=progress.tell)
        return session.proposer
    prepare_probes(session, progress.doing)
    return Recorded(EditorSettings())


def _ends(journal: DiskJournal) -> dict[int, int]:
    """Return every step with the one before it; 0 before the first."""
    steps = [0, *dict.fromkeys(e.step for e in journal.entries)]
    return dict(zip(steps, [0, *steps], strict=False))


def _last(store: RunStore, recipe: Recipe, reached: int) -> int:
    """Return the run's last step; -1 while that is not known."""
    whole = len(store.description()["stream"]["hashes"])
    return reached if reached == whole or store.finished() else -1


def _own(recipe: Recipe, name: str) -> Probe | None:
    """Return the run's own probe of a name."""
    return next((build_probe(p.name, p.settings) for p in recipe.probes if p.name == name), None)


def _check_settings(run: Path, asked: Probe, own: Probe | None) -> None:
    """Refuse rows of two kinds under one probe's name."""
    known = _lasting(own) if own else None
    if (file := _settings_file(run, asked.name)).exists():
        known = json.loads(file.read_text(encoding="utf-8"))
    for key, value in _lasting(asked).items():
        if known is not None and known.get(key) != value:
            raise RunError(
                f"{run} has rows of the probe {asked.name} with {key} {known.get(key)!r}, not {value!r}. Ask with the "
                f"same settings; rows of both would be taken for one."
            )


def _write_settings(run: Path, probe: Probe) -> None:
    """Write beside the rows with which settings they were measured."""
    file = _settings_file(run, probe.name)
    if not file.exists():
        write_aside(file, (json.dumps(_lasting(probe), indent=1, ensure_ascii=False) + "\n").encode())


def _settings_file(run: Path, probe: str) -> Path:
    return run / "probes" / probe / "settings.json"


def _lasting(probe: Probe) -> Mapping[str, Any]:
    """Return the settings on which rows depend, as JSON holds them."""
    found: dict[str, Any] = json.loads(probe.settings.model_dump_json(exclude=set(_SCHEDULE)))
    return found
