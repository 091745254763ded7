"""Which probes a step asks for, and what they find: the same beside a run as inside it."""

from collections.abc import Callable, Iterator, Sequence

from errata.edits import Fact
from errata.models.lower import LowerStates
from errata.probes.base import Probe, View
from errata.probes.rows import Row
from errata.studies.session import Session, reading
from errata.studies.unchanged import first_changed
from errata.trajectory import Trajectory

__all__ = ["is_due", "measured"]


def is_due(probe: Probe, step: int, before: int) -> bool:
    """Say whether a probe's own schedule asks for a step.

    Args:
        probe: the probe.
        step: how many edits have been made; 0 before the first.
        before: the step that ended one batch earlier.
    """
    settings = probe.settings
    if step == 0:
        return bool(settings.at_start)
    return bool(step // settings.every > before // settings.every or any(before < n <= step for n in settings.also_at))


def measured(
    session: Session,
    trajectory: Trajectory,
    lower: LowerStates,
    probes: Sequence[Probe],
    batch: Sequence[Fact],
    edited: Sequence[Fact],
    *,
    final: bool,
    doing: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Iterator[tuple[Probe, list[Row]]]:
    """Yield what each probe finds where a trajectory stands.

    Args:
        session: the run.
        trajectory: its model, after some step.
        lower: keeps what enters the first changed block.
        probes: which are asked.
        batch: the facts of the step just made.
        edited: all facts whose update is in the weights.
        final: whether this is the run's last step.
        doing: called with how many of the probes have been asked, of how many.
    """
    if not probes:  # a view copies the list of all facts edited so far
        return
    view = View(
        model=session.model,
        step=trajectory.step,
        batch=tuple(batch),
        edited=tuple(edited),
        final=final,
        # By name: the files from which a run goes on keep no order of their own, and rows come in this one.
        base=dict(sorted(trajectory.base().items())),
        masters=dict(sorted(trajectory.masters().items())),
    )
    # Kept or not, what enters the first changed block is always computed in the same way: a resumed run is equal.
    with lower.lent(first_changed(view.model, session.editor, view.base)):
        for number, probe in enumerate(probes):
            doing(f"measuring at edit {view.step}", number, len(probes))
            with reading(session, probe):
                yield probe, list(probe.measure(view))
        doing(f"measuring at edit {view.step}", len(probes), len(probes))
