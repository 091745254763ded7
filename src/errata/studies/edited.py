"""The edited model of a run directory: the base model with everything that the journal holds."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from pydantic import ValidationError

from errata.editors.base import Editor
from errata.editors.settings import EditorSettings
from errata.editors.statistics import StatisticsStore
from errata.editors.update import Update
from errata.edits import EditStream, Fact
from errata.errors import ConfigError, RunError
from errata.models import EditableModel
from errata.studies.recipe import Recipe
from errata.studies.session import Session, open_session, prepare_editor
from errata.studies.store import RunStore
from errata.trajectory import DiskJournal, Entry, Trajectory
from errata.trajectory.deciding import Course, Finding, Judge
from errata.validation import explain

__all__ = ["Edited", "Recorded", "open_edited", "recorded_recipe"]

_CLOSED = "a run directory is opened to be read and to take edits back. Make further edits in a run of their own."


@dataclass(frozen=True)
class Edited:
    """A run directory, opened: its model holds every applied edit. Close it to let others in, or open it by `with`.

    Args:
        store: the run directory.
        recipe: what it was made with, every setting resolved.
        model: the edited model; plain transformers underneath.
        stream: the facts, in the order of their edits.
        trajectory: shows earlier steps (`at`), takes edits back (`undo`).
    """

    store: RunStore
    recipe: Recipe
    model: EditableModel
    stream: EditStream
    trajectory: Trajectory
    _held: ExitStack

    def __enter__(self) -> "Edited":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take off what a method beside the weights has attached, and give the directory free; the weights stay."""
        self._held.close()


class Recorded(Editor):
    """Stands for a method that changes weights alone: its part was done when its updates were recorded."""

    name = "recorded"
    paper = "none"
    Settings = EditorSettings

    def __init__(self, settings: EditorSettings) -> None:
        self.settings = settings

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Nothing to prepare."""

    def propose(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Refuse: the method itself would have to be prepared."""
        raise ConfigError(_CLOSED)

    def remember(self, update: Update) -> None:
        """Nothing to remember."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


class _ToBeRead(Judge):
    """Lets no further batch in."""

    def recall(self, entries: Sequence[Entry]) -> None:
        """Nothing to take up."""

    def decide(self, course: Course, batch: Sequence[Fact]) -> Finding:
        """Refuse: further edits would be neither judged nor measured as those of the run."""
        raise ConfigError(_CLOSED)


def open_edited(
    directory: str | Path,
    *,
    model: EditableModel | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> Edited:
    """Rebuild the edited model of any run directory: base model, then every applied update, in their order.

    Sums are those of the run, so the weights are the run's own bit for bit. Methods beside the weights (GRACE, WISE,
    SERAC, ...) are attached as well. The directory stays locked until `close`.

    Args:
        directory: what `errata run` or `errata edit` made.
        model: the unedited base model, where it is loaded already; it is edited in place.
        tell: receives remarks, one line each.

    Raises:
        RunError: when it is no run directory, damaged, or in use by another process.
        ResumeError: when the base model is not the one that was edited.
    """
    store = RunStore(directory)
    recipe = recorded_recipe(store)
    with ExitStack() as held:
        held.enter_context(store.lock())
        session = open_session(recipe, tell, model, store.stream())
        store.check_model(session.model)
        if beside := type(session.editor).attach is not Editor.attach:
            prepare_editor(session)
        trajectory = _replayed(session, store, beside)
        held.callback(trajectory.close)
        return Edited(store, session.recipe, session.model, session.stream, trajectory, held.pop_all())


def recorded_recipe(store: RunStore) -> Recipe:
    """Return the recipe that a run directory was made with.

    Raises:
        RunError: when `run.json` holds none that this version understands.
    """
    try:
        return Recipe.model_validate(store.description()["config"])
    except ValidationError as e:
        raise RunError(explain(e, Recipe, str(store.path / "run.json"))) from e


def _replayed(session: Session, store: RunStore, beside: bool) -> Trajectory:
    """Apply the journal from the last checkpoint on; from the beginning where edits were taken back since."""
    editor = session.proposer if beside else Recorded(EditorSettings())
    journal = DiskJournal(store.path)
    checkpoint = store.last_checkpoint(journal.step)
    if checkpoint is not None and checkpoint.undone != journal.undone:
        checkpoint = None
    trajectory = Trajectory(session.model, editor, judge=_ToBeRead(), journal=journal, start=checkpoint)
    while trajectory.replay():
        pass
    return trajectory
