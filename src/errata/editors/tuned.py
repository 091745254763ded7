"""Settings that `errata tune` has found, kept by the model's identity."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from errata.errors import ConfigError
from errata.files import cache_root, read_text, write_aside
from errata.models import EditableModel, identity_of

__all__ = ["read_tuned", "settings_file", "tuned", "write_tuned"]


def settings_file(model: EditableModel) -> Path:
    """Return where the settings found for a model lie."""
    identity = hashlib.sha256(str(identity_of(model)).encode()).hexdigest()
    return _folder() / f"{identity[:24]}.json"


def tuned(model: EditableModel) -> dict[str, Any]:
    """Return the settings found for this very model, by method; {} where there are none.

    Raises:
        ConfigError: when the file cannot be read.
    """
    # The identity of a model takes a second: it is asked for only where anything was ever tuned.
    if model.model.device.type == "meta" or not any(_folder().glob("*.json")):
        return {}
    return {method: entry["settings"] for method, entry in read_tuned(settings_file(model)).items()}


def read_tuned(file: Path) -> dict[str, Any]:
    """Return what a file of found settings holds, by method; {} where there is no file.

    Raises:
        ConfigError: when the file holds something else.
    """
    if not file.exists():
        return {}
    try:
        content: dict[str, Any] = json.loads(read_text(file, ConfigError))
        if all(isinstance(entry["settings"], dict) for entry in content.values()):
            return content
        raise TypeError("its settings are no table")
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise ConfigError(f"{file} holds no settings ({e}). Delete it; errata tune makes it anew.") from e


def write_tuned(file: Path, method: str, settings: Mapping[str, Any], why: str) -> None:
    """Add a method's settings to a file of found settings."""
    content = read_tuned(file)
    content[method] = {"settings": dict(settings), "found": why}
    write_aside(file, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def _folder() -> Path:
    return cache_root() / "tuned"
