"""Settings that `errata tune` has found, kept by the model's identity."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from errata.errors import ConfigError
from errata.files import cache_root, read_text, write_aside
from errata.models import EditableModel, identity_of

__all__ = ["settings_file", "tuned", "write_tuned"]


def settings_file(model: EditableModel) -> Path:
    """Return where the settings found for a model lie."""
    return _folder() / f"{identity_of(model).weights[:24]}.json"


def tuned(model: EditableModel) -> dict[str, Any]:
    """Return the settings found for this very model, by method; {} where there are none.

    Raises:
        ConfigError: when the file cannot be read.
    """
    # The identity of a model takes a second: it is asked for only where anything was ever tuned.
    if model.model.device.type == "meta" or not any(_folder().glob("*.json")):
        return {}
    file = settings_file(model)
    if not file.exists():
        return {}
    try:
        content = json.loads(read_text(file, ConfigError))
        return {method: entry["settings"] for method, entry in content.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise ConfigError(f"{file} holds no settings ({e}). Delete it; errata tune makes it anew.") from e


def write_tuned(file: Path, method: str, settings: Mapping[str, Any], why: str) -> None:
    """Add a method's settings to a file of found settings."""
    content = json.loads(read_text(file, ConfigError)) if file.exists() else {}
    content[method] = {"settings": dict(settings), "found": why}
    write_aside(file, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def _folder() -> Path:
    return cache_root() / "tuned"
