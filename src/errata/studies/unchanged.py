"""Which blocks of its model a run leaves as they are, and how much of what they make of texts is kept."""

from collections.abc import Iterable
from pathlib import Path

from errata.editors.base import Editor
from errata.models import EditableModel
from errata.models.lower import LowerStates

__all__ = ["KEPT_SHARE", "first_changed", "kept_states"]

KEPT_SHARE = 1 / 16
"""What hidden states kept for probes may take in memory, as a share of the model's weights."""
_DISK = 2**32


def kept_states(model: EditableModel, folder: Path | None = None) -> LowerStates:
    """Return what keeps hidden states for a run: in memory a sixteenth of the model's weights, on disk 4 GiB.

    Args:
        model: the model.
        folder: for a nameless file, the run's own: the system's place for temporary files may be in memory.
    """
    weights = sum(p.numel() * p.element_size() for p in model.model.parameters())
    return LowerStates(model, memory=int(KEPT_SHARE * weights), disk=_DISK, folder=folder)


def first_changed(model: EditableModel, editor: Editor, changed: Iterable[str]) -> int:
    """Return the lowest block that an editor has changed or says it will change; 0 where nothing is certain.

    Args:
        model: the model.
        editor: a method that works beside the weights may do so anywhere: 0.
        changed: paths of the modules changed so far; their layers count whatever the editor's settings say.
    """
    if type(editor).attach is not Editor.attach:
        return 0
    named = getattr(editor.settings, "layers", None)
    if named is None:
        named = getattr(editor.settings, "layer", None)
    layers = [named] if isinstance(named, int) else list(named or ())
    return min([*layers, *map(model.layer_of, changed)], default=0)
