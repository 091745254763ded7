"""Screening: every fact as the first edit of a clean model, each with all that it did and all that was known before."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any, ClassVar

from errata.editors.keys import place
from errata.edits import Fact
from errata.errors import ConfigError, ErrataError
from errata.models import identity_of
from errata.models.lower import LowerStates
from errata.probes.base import View
from errata.probes.rows import Row
from errata.studies.agreement import check_agreement
from errata.studies.description import describe
from errata.studies.progress import Progress
from errata.studies.recipe import Recipe
from errata.studies.session import Session, open_session, prepare, reading, sources
from errata.studies.store import RunStore
from errata.studies.unchanged import first_changed, kept_states
from errata.trajectory import Entry, Guard, Trajectory

__all__ = ["PROBES", "ScreenStore", "screen"]

PROBES: tuple[dict[str, Any], ...] = (
    {"name": "proficiency", "at_start": False},
    {"name": "unrelated", "n": 100},
    {"name": "perplexity", "lines": 50},
    {"name": "entropy", "new_tokens": 40},
    {"name": "drift", "dominant": False, "keys": 0},
)
"""What is measured after each edit, in a recipe's form."""


class ScreenStore(RunStore):
    """Read and write a screening's directory: `screen.json`, `facts.jsonl`, and a Parquet part a fact.

    The steps of its rows are the facts' numbers in their order; step 0 is the unedited model.
    """

    description_file: ClassVar[str] = "screen.json"

    def part(self, number: int) -> Path:
        """Return the file of a fact's rows."""
        return self.path / "probes" / "screen" / f"part-{number:06d}.parquet"


def screen(recipe: Recipe, out: Path, progress: Progress | None = None) -> Path:
    """Make each fact of a recipe the first edit of the clean model, measure, and take it back.

    Killed and called again it goes on with the first fact that has no rows yet; called once more it does nothing.

    Args:
        recipe: model, method, facts, and the probes that follow each edit.
        out: the directory.
        progress: told of every fact.

    Raises:
        ConfigError: when facts are to be edited in batches.
        RunError: when the directory was begun with other settings, another model or other facts.
    """
    if recipe.edits.batch_size != 1:
        raise ConfigError(f"a screening edits one fact at a time, and edits.batch_size is {recipe.edits.batch_size}.")
    progress = progress or Progress()
    store = ScreenStore(out)
    begun = (out / store.description_file).exists()
    session = open_session(recipe, progress.tell)
    with store.lock():
        if begun:
            check_agreement(out, recipe, session.model, ScreenStore)
            store.check(session.model, session.stream, sources(session))
        else:
            config = session.recipe.model_dump(mode="json")
            identity = str(identity_of(session.model))
            store.begin(describe(config, session.stream, identity, sources(session), session.probes), session.stream)
        left = [n for n in range(len(session.stream) + 1) if not store.part(n).exists()]
        if left:
            try:
                _screen(session, store, left, progress)
            except ErrataError:
                if not store.part(0).exists():
                    store.abandon()
                raise
    return out


def _screen(session: Session, store: ScreenStore, left: Sequence[int], progress: Progress) -> None:
    # The probes are made ready for each fact anew: what is unrelated depends on what is edited.
    prepare(replace(session, probes=()), progress.doing, tell=progress.tell)
    total = len(session.stream)
    progress.begin(total + 1 - len(left), total)
    with closing(kept_states(session.model, store.path)) as lower:
        for number in left:
            if number == 0:
                unedited = View(session.model, step=0)
                store.write_rows("screen", 0, list(_measured(session, lower, (), unedited)))
                continue
            fact = session.stream.facts[number - 1]
            entry, rows = _first_edit(session, lower, fact)
            # By its size alone the guard calls an update disabling; here that word is for what it did to the model.
            status = "outsized" if entry.status == "disabling" else entry.status
            numbered = replace(entry, edit=number, step=number, status=status)
            rows = [replace(row, step=number, edit_id=row.edit_id or fact.id) for row in rows]
            store.write_rows("screen", number, rows)
            progress.edited([numbered], {"screen": rows}, entry.seconds)
    progress.end()


def _first_edit(session: Session, lower: LowerStates, fact: Fact) -> tuple[Entry, list[Row]]:
    """Edit, measure and take back; weights and the editor's memory end as they began."""
    clean = dict(session.editor.state_dict())
    rows = [Row(1, f"known.{name}", value) for name, value in _text_figures(session, fact)]
    with closing(Trajectory(session.model, session.editor, guard=Guard(policy="continue"))) as trajectory:
        try:
            (entry,) = trajectory.advance([fact])
            rows += [Row(1, f"known.{name}", value) for name, value in entry.diagnostics.items()]
            rows += [Row(1, "update.norm", norm, prompt_id=path) for path, norm in entry.norms.items()]
            rows.append(Row(1, "update.relative", entry.relative, text=entry.status))
            if entry.verdict:
                rows.append(Row(1, "update.remark", nan, text=entry.verdict))
            if entry.applied:
                view = View(session.model, 1, (fact,), (fact,), False, trajectory.base(), trajectory.masters())
                rows += _measured(session, lower, (fact,), view)
        finally:
            if trajectory.journal.active_steps():
                trajectory.undo(last=1)
            session.editor.load_state_dict(clean)
    return entry, rows


def _text_figures(session: Session, fact: Fact) -> Iterator[tuple[str, float]]:
    """Yield what the fact's text alone tells: where its subject stands, and how long its parts are, in tokens."""
    ids, last = place(session.model, fact)
    _, first = place(session.model, fact, token="subject_first")
    yield "subject_position", float(first)
    yield "subject_tokens", float(last - first + 1)
    yield "prompt_tokens", float(len(ids))
    yield "object_tokens", float(len(session.model.encode_target(fact.target_new, fact.text, fact.join)))


def _measured(session: Session, lower: LowerStates, facts: Sequence[Fact], view: View) -> Iterator[Row]:
    """Yield the rows of every probe, as in a run of these facts alone."""
    with lower.lent(first_changed(session.model, session.editor, view.base)):
        for probe in session.probes:
            if view.step or probe.settings.at_start:
                with reading(session, probe):
                    probe.prepare(session.model, facts)
                    yield from probe.measure(view)
