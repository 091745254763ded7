"""The edited model as a plain Hugging Face directory."""

import json
from pathlib import Path

from errata.files import write_aside
from errata.models import EditableModel

__all__ = ["write_weights"]


def write_weights(model: EditableModel, folder: Path) -> None:
    """Write weights, configuration and tokenizer as transformers reads them, in the precision of the model.

    The edited matrices are the trajectory's masters, rounded once. The settings that the model's directory recommends
    for editing it (`editing.json`) go with it.

    Args:
        model: the edited model.
        folder: where to.
    """
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    if model.settings:
        write_aside(folder / "editing.json", (json.dumps(model.settings, indent=1) + "\n").encode())
