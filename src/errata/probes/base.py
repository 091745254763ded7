"""The contract of a probe: it reads a model and yields rows, and changes nothing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field
from torch import Tensor

from errata.editors.settings import EditorSettings
from errata.edits import Fact, standing
from errata.models import EditableModel
from errata.probes.rows import Row

__all__ = ["Kind", "Probe", "ProbeSettings", "View", "occasions"]

Kind = Literal["share", "number"]
"""What a metric's values are: successes or shares of them, or any number."""


class ProbeSettings(EditorSettings):
    """What every probe can be told."""

    every: int = Field(default=1, ge=1)
    """Measure whenever this many further edits have been made, and at the end."""
    also_at: tuple[int, ...] = ()
    """Further numbers of edits after which to measure, for uneven schedules: [1, 5] beside every 10th."""
    at_start: bool = True
    """Measure the unedited model too."""
    prompt_form: Literal["edits", "raw", "chat"] = "edits"
    """How prompts are read: raw, in the model's chat template, or as the edits are (`edits.prompt_form`)."""


@dataclass(frozen=True)
class View:
    """What a probe may look at: the model as it is at one step.

    Args:
        model: the model with the edits so far; to be read only.
        step: how many edits have been made.
        batch: the facts edited in the step just made; empty at step 0.
        edited: all facts whose update is in the weights, in their order.
        final: whether this is the run's last step.
        base: W₀ of every matrix edited so far, in full precision.
        masters: the present W of the same matrices.
    """

    model: EditableModel
    step: int
    batch: Sequence[Fact] = ()
    edited: Sequence[Fact] = ()
    final: bool = False
    base: Mapping[str, Tensor] = field(default_factory=dict)
    masters: Mapping[str, Tensor] = field(default_factory=dict)


def occasions(view: View, facts: Sequence[Fact], *, at_end: bool) -> Iterator[tuple[str, Sequence[Fact]]]:
    """Yield when facts are asked for, and which: "base" all, "now" the batch just made, "end" all that stand.

    Args:
        view: the step.
        facts: of the run.
        at_end: whether those that no later edit contradicts are asked for once more after the last edit.
    """
    if view.step == 0:
        yield "base", facts
    yield "now", view.batch
    if view.final and at_end:
        yield "end", standing(view.edited)


class Probe(Protocol):
    """One kind of measurement.

    A probe is a class in its own file; it never writes to the model and never touches a global random generator. What
    it needs at random comes from a generator seeded by its settings.

    A probe of another package may say in `metrics: ClassVar[Mapping[str, Kind]]` what its figures are, by the metric's
    name without its moment: a "share" is 0 or 1, or a mean of such, and has a share's interval and axis; everything
    else is a "number". What is not declared is a number.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[ProbeSettings]]
    settings: Any

    def __init__(self, settings: Any) -> None: ...

    def prepare(self, model: EditableModel, facts: Sequence[Fact]) -> None:
        """Load what the probe needs, before the first edit.

        Args:
            model: the unedited model.
            facts: all facts the run will edit.
        """

    def measure(self, view: View) -> Iterable[Row]:
        """Return the rows of one step."""
        ...
