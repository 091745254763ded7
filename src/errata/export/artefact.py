"""What a method beside the weights remembers, as files, and one call that puts it beside the model again."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Self

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from errata.editors.base import Editor
from errata.editors.contexts import ContextSettings
from errata.editors.registry import editor_class
from errata.editors.settings import EditorSettings
from errata.editors.statistics import StatisticsStore
from errata.editors.text_source import TextSource
from errata.errors import ConfigError, RunError
from errata.files import write_aside
from errata.models import EditableModel, deviation
from errata.training.checkpoint import NETWORK

__all__ = ["DESCRIPTION", "EDITS", "Attached", "attach", "write_artefact"]

DESCRIPTION, EDITS = "editor.json", "edits.jsonl"
_STATE, _TEMPLATE = "editor.safetensors", "template.txt"


@dataclass
class Attached:
    """A model that answers by what an editor remembers, until `detach` or the end of a `with` block.

    Args:
        model: the model; no weight of it has changed.
        editor: the editor beside it.
    """

    model: EditableModel
    editor: Editor
    _detach: Callable[[], None] | None

    def detach(self) -> None:
        """Leave the model as it was; of no effect a second time."""
        if self._detach is not None:
            self._detach()
            self._detach = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


def write_artefact(editor: Editor, model: EditableModel, fingerprint: str, folder: Path) -> None:
    """Write an editor's settings and state, and the files of its own that it answers with.

    Args:
        editor: the editor, with all that it remembers.
        model: the model beside which it answers.
        fingerprint: that model's identity.
        folder: where to.
    """
    settings = editor.settings.model_dump(mode="json")
    if checkpoint := settings.get("checkpoint"):
        shutil.copyfile(Path(checkpoint) / NETWORK, folder / NETWORK)
    if template := settings.get("template"):
        shutil.copyfile(template, folder / _TEMPLATE)
    shown = settings.get("demonstrations")
    if isinstance(shown, dict) and shown["dataset"] == "auto":
        shown |= {"dataset": "lab", "path": model.name}
    state = dict(editor.state_dict())
    tensors = {k: v.contiguous() for k, v in state.items() if isinstance(v, Tensor)}
    description = {
        "format": 1,
        "method": editor.name,
        "settings": settings,
        "state": {k: v for k, v in state.items() if k not in tensors},
        "model": {"name": model.name, "fingerprint": fingerprint},
    }
    write_aside(folder / _STATE, save(tensors))
    write_aside(folder / DESCRIPTION, (json.dumps(description, indent=1, ensure_ascii=False) + "\n").encode())


def attach(model: EditableModel, directory: Path | str, *, other_weights: bool = False) -> Attached:
    """Put what `errata export --as editor` wrote beside its model again.

    The plain model inside answers by it too, as far as the method works in the model's modules (GRACE, WISE, SERAC);
    what works in the prompt (IKE, SCR, MeLLo) needs texts to be read through the `EditableModel`.

    Args:
        model: the unedited model, as `errata.load` gives it.
        directory: the exported directory.
        other_weights: allow a model with other weights, such as the same in another precision.

    Raises:
        RunError: when the directory is no such artefact, or damaged.
        ConfigError: when it belongs to a model with other weights.

    Example:
        >>> import errata
        >>> model = errata.load("lab-s")                          # doctest: +SKIP
        >>> with errata.attach(model, "exported") as edited:      # doctest: +SKIP
        ...     edited.model.model.generate(...)
    """
    folder = Path(directory)
    content = _read(folder)
    owner = content["model"]
    if not other_weights and (what := deviation(model, str(owner["fingerprint"]))):
        raise ConfigError(
            f"{folder} belongs to {owner['name']}, and {model.name} is not that model: {what}. It is another model, an "
            f"edited one, or the same in another precision. Load the one it was made on, or pass other_weights=True."
        )
    cls = editor_class(content["method"])
    try:
        settings = _settings(cls, content["settings"], folder, other_weights=other_weights)
        editor = cls(settings)
        # What it would sample or read in order to learn further is either in its state or not needed to answer.
        editor.prepare(model, StatisticsStore(), Random(0))
        editor.load_state_dict({**content["state"], **load_file(folder / _STATE)})
    except (OSError, SafetensorError, ValidationError, KeyError, TypeError, ValueError, RuntimeError) as e:
        raise RunError(f"{folder} is damaged or of another version ({e!r:.300}). Export the run again.") from e
    return Attached(model, editor, editor.attach(model))


def _read(folder: Path) -> Mapping[str, Any]:
    file = folder / DESCRIPTION
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise RunError(
            f"{folder} holds no {DESCRIPTION}, so there is no editor to attach. Name a directory that `errata export "
            f"--as editor` wrote; the other forms are loaded by transformers and peft."
        ) from e
    except (OSError, ValueError) as e:
        raise RunError(f"{file} cannot be read ({e}). Export the run again.") from e
    parts = {"method": str, "settings": dict, "state": dict, "model": dict}
    fitting = isinstance(content, dict) and all(isinstance(content.get(k), kind) for k, kind in parts.items())
    if not fitting or content.get("format") != 1 or not {"name", "fingerprint"} <= set(content["model"]):
        raise RunError(f"{file} is no editor of format 1. Export the run again with this version of Errata.")
    return dict(content)


def _settings(cls: type[Editor], recorded: Mapping[str, Any], folder: Path, *, other_weights: bool) -> EditorSettings:
    """Return the recorded settings with the artefact's own files in place of those they named."""
    chosen = dict(recorded)
    if (folder / NETWORK).exists():
        chosen["checkpoint"] = str(folder)
    if "other_weights" in chosen:
        chosen["other_weights"] = chosen["other_weights"] or other_weights
    if (folder / _TEMPLATE).exists():
        chosen["template"] = str(folder / _TEMPLATE)
    settings = cls.Settings.model_validate(chosen)
    given: dict[str, object] = {}
    for name in cls.Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, TextSource):  # texts to learn beside; nothing is learnt from here on
            given[name] = value.model_copy(update={"source": str(folder / EDITS)})
        elif isinstance(value, ContextSettings):
            given[name] = value.model_copy(update={"lengths": ()})
    return settings.model_copy(update=given)
