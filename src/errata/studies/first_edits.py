"""Make each fact the first edit of a clean model, and take it back."""

from collections.abc import Iterator, Sequence
from contextlib import closing

from errata.editors.base import Editor
from errata.edits import Fact
from errata.models import EditableModel
from errata.trajectory import Entry, Guard, Trajectory

__all__ = ["first_edits"]


def first_edits(model: EditableModel, editor: Editor, facts: Sequence[Fact]) -> Iterator[tuple[Fact, Entry]]:
    """Yield each fact with its journal's line; the model is edited with this fact alone until the next is asked for.

    Args:
        model: the clean model; clean again at the end.
        editor: prepared; what it remembers is as before at the end.
        facts: the facts.
    """
    clean = dict(editor.state_dict())
    for fact in facts:
        with closing(Trajectory(model, editor, guard=Guard(policy="continue"))) as trajectory:
            try:
                (entry,) = trajectory.advance([fact])
                yield fact, entry
            finally:
                if trajectory.journal.active_steps():
                    trajectory.undo(last=1)
                editor.load_state_dict(clean)
