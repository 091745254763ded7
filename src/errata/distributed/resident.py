"""A base model that stays loaded, and is lent to one run or evaluation after another."""

import time
import traceback
from collections.abc import Callable

from errata.errors import ErrataError
from errata.models import EditableModel, Identity, identity_of, load
from errata.studies.edited import recorded_recipe
from errata.studies.engine import Job, Outcome, begun
from errata.studies.evaluate import Evaluation, evaluate
from errata.studies.progress import Progress
from errata.studies.recipe import ModelSection
from errata.studies.run import Enough, resume, run
from errata.studies.store import RunStore

__all__ = ["Resident"]


class Resident:
    """Keep one base model, and make runs and evaluations with it.

    A run gives the model back unedited. Before it is lent again its identity is compared with that of the model as
    it was loaded; where a run that broke down has left anything behind, the model is loaded anew.
    """

    def __init__(self) -> None:
        self.loads = 0
        """How many times a model has been loaded."""
        self._model: EditableModel | None = None
        self._asked: ModelSection | None = None
        self._identity: Identity | None = None

    def run(self, job: Job, enough: Enough = lambda rows: False) -> Outcome:
        """Make one run, or go on with one that was begun; it pauses where `enough` says so."""

        def make() -> None:
            model = self.model(job.recipe.model)
            if begun(job.out):
                resume(job.out, model=model, until=job.until, enough=enough)
            else:
                run(job.recipe, job.out, model=model, until=job.until, enough=enough)

        started = time.monotonic()
        reason = _reason(make)
        return Outcome(job, "failed" if reason else "done", reason, time.monotonic() - started)

    def evaluate(self, asked: Evaluation, progress: Progress | None = None) -> str:
        """Measure past steps of a run; return why that failed, or nothing."""
        heard = progress or Progress()

        def make() -> None:
            section = recorded_recipe(RunStore(asked.run)).model
            heard.doing(f"loading {section.name}", 0, 1)
            model = self.model(section)
            heard.doing(f"loading {section.name}", 1, 1)
            evaluate(asked, model, heard)

        return _reason(make)

    def model(self, asked: ModelSection) -> EditableModel:
        """Return the unedited model that a recipe asks for; loaded unless it is the one that is kept."""
        model, self._model = self._model, None
        if model is None or asked != self._asked or identity_of(model) != self._identity:
            model = None  # its room is needed for the other
            model = load(asked.name, dtype=asked.dtype, device=asked.device, device_map=asked.device_map)
            self._asked, self._identity = asked, identity_of(model)
            self.loads += 1
        self._model = model
        return model


def _reason(make: Callable[[], None]) -> str:
    """Do something, and return why it failed; a bug's whole traceback, and nothing where it did not."""
    try:
        make()
    except ErrataError as e:
        return str(e)
    except Exception:  # a bug ends its own task, and no other
        return traceback.format_exc().strip()
    return ""
