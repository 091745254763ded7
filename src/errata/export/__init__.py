"""Take edits out: as plain weights, as a LoRA adapter, or as what an editor remembers."""

from errata.export.artefact import Attached, attach
from errata.export.exporting import Exported, Form, export

__all__ = ["Attached", "Exported", "Form", "attach", "export"]
