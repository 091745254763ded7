"""Read the file that a probe's `source` may name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from errata.edits.records import local_records
from errata.errors import ConfigError, EditDataError
from errata.files import read_text

__all__ = ["list_field", "open_source", "read_records", "text_field", "texts_field"]


def open_source(source: str, probe: str) -> str:
    """Return a source file's text.

    Args:
        source: its path.
        probe: whose setting it is, for the message.

    Raises:
        ConfigError: when there is no such file, or it is not UTF-8.
    """
    return read_text(Path(source), ConfigError, f"probes ({probe}): source")


def read_records(source: str, probe: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the records of a JSON-lines file, each with its place ("facts.jsonl, line 3") for messages.

    Args:
        source: its path.
        probe: whose setting it is, for the message.

    Raises:
        ConfigError: when there is no such file, or no record in it.
        EditDataError: when a record is not a JSON object; names its place.
    """
    if not Path(source).is_file():
        why = "it is a directory" if Path(source).is_dir() else "there is no such file"
        raise _missing(source, probe, why)
    found = list(local_records(Path(source)))
    if not found:
        raise _missing(source, probe, "it holds no record")
    return found


def _missing(source: str, probe: str, why: str) -> ConfigError:
    return ConfigError(
        f"probes ({probe}): source is {source!r}, which cannot be read ({why}). "
        f'Give the path of a file, or "auto" for what the lab model brings along.'
    )


def text_field(record: Any, key: str, where: str) -> str:
    """Return a non-empty text field.

    Raises:
        EditDataError: when the record is no object, or the field missing, empty or no text.
    """
    value = _field(record, key, where)
    if not isinstance(value, str) or not value.strip():
        raise EditDataError(f"{where}: `{key}` is {value!r}, but a non-empty text is needed.")
    return value


def list_field(record: Any, key: str, where: str) -> list[Any]:
    """Return a list field.

    Raises:
        EditDataError: when the record is no object, or the field missing or no list.
    """
    value = _field(record, key, where)
    if not isinstance(value, list):
        raise EditDataError(f"{where}: `{key}` is {value!r:.80}, but a list `{key}` is needed.")
    return value


def texts_field(record: Any, key: str, where: str) -> list[str]:
    """Return a list of at least one text, none of them empty.

    Raises:
        EditDataError: when the record is no object, or the field anything else.
    """
    value = list_field(record, key, where)
    if not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise EditDataError(f"{where}: `{key}` is {value!r:.80}, but a list `{key}` of non-empty texts is needed.")
    return value


def _field(record: Any, key: str, where: str) -> Any:
    if not isinstance(record, Mapping):
        raise EditDataError(f"{where}: an object with `{key}` is needed, found {record!r:.80}.")
    return record.get(key)
