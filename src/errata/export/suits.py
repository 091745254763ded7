"""Which forms of export suit a run directory, told from what it holds, without its model."""

from importlib.util import find_spec
from pathlib import Path

from safetensors import SafetensorError, safe_open

from errata.editors.base import Editor
from errata.editors.registry import editor_class
from errata.export.forms import Form
from errata.trajectory import DiskJournal

__all__ = ["beside", "suiting"]


def beside(editor: type[Editor]) -> bool:
    """Say whether a method keeps its edits beside the weights."""
    return editor.attach is not Editor.attach


def suiting(directory: str | Path, method: str) -> tuple[Form, ...]:
    """Return the forms in which a run's edits can be exported, the smallest first; none where none is applied.

    An adapter is named only where every change is low-rank and none of a bias: of others it may be refused.

    Args:
        directory: the run directory.
        method: the editing method's name.
    """
    journal = DiskJournal(Path(directory), mend=False)
    steps = journal.active_steps()
    if not steps:
        return ()
    if beside(editor_class(method)):
        return ("editor",)
    return ("lora", "full") if find_spec("peft") and all(map(_thin, map(journal.file, steps))) else ("full",)


def _thin(file: Path) -> bool:
    """Say whether an update consists of factors of matrices alone; only its head is read."""
    try:
        with safe_open(file, framework="pt") as update:
            parts = [name.rpartition("|") for name in update.keys()]  # noqa: SIM118
    except (OSError, SafetensorError):
        return False
    changed = [(path, part) for path, _, part in parts if path != "memory"]
    return all(part in ("left", "right") and not path.endswith(".bias") for path, part in changed)
