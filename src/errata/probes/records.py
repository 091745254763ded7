"""Read the file that a probe's `source` may name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from errata.edits.records import local_records
from errata.errors import ConfigError, EditDataError

__all__ = ["open_source", "read_records", "text_field"]


def open_source(source: str, probe: str) -> str:
    """Return a source file's text.

    Args:
        source: its path.
        probe: whose setting it is, for the message.

    Raises:
        ConfigError: when there is no such file, or it is not UTF-8.
    """
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise _missing(source, probe, str(e)) from e


def read_records(source: str, probe: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the records of a JSON-lines file, each with its place ("facts.jsonl, line 3") for messages.

    Args:
        source: its path.
        probe: whose setting it is, for the message.

    Raises:
        ConfigError: when there is no such file.
        EditDataError: when a record is not a JSON object; names its place.
    """
    if not Path(source).is_file():
        raise _missing(source, probe, "there is no such file")
    return list(local_records(Path(source)))


def _missing(source: str, probe: str, why: str) -> ConfigError:
    return ConfigError(
        f"probes ({probe}): source is {source!r}, which cannot be read ({why}). "
        f'Give the path of a file, or "auto" for what the lab model brings along.'
    )


def text_field(record: Mapping[str, Any], key: str, where: str) -> str:
    """Return a non-empty text field.

    Raises:
        EditDataError: when it is missing, empty or no text.
    """
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise EditDataError(f"{where}: `{key}` is {value!r}, but a non-empty text is needed.")
    return value
