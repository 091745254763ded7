"""Correct facts in a language model, thousands of them, and know what every correction cost."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from errata.api import EditResult, edit
    from errata.edits import EditStream, Fact
    from errata.export import Attached, attach
    from errata.models import EditableModel, load
    from errata.trajectory import Trajectory

__all__ = ["Attached", "EditResult", "EditStream", "EditableModel", "Fact", "Trajectory", "attach", "edit", "load"]

# Names are looked up on first use, so that `import errata` and the command line start without torch.
_HOME = {
    "Attached": "errata.export",
    "EditResult": "errata.api",
    "EditStream": "errata.edits",
    "EditableModel": "errata.models",
    "Fact": "errata.edits",
    "Trajectory": "errata.trajectory",
    "attach": "errata.export",
    "edit": "errata.api",
    "load": "errata.models",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'errata' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
