"""Read the JSON lines that a probe's `source` may name."""

import json
from pathlib import Path
from typing import Any

from errata.errors import ConfigError, EditDataError

__all__ = ["open_source", "read_records", "text_field"]


def open_source(source: str, probe: str) -> str:
    """Return a source file's text.

    Args:
        source: its path.
        probe: whose setting it is, for the message.

    Raises:
        ConfigError: when there is no such file, or it holds no text.
    """
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"probes ({probe}): source is {source!r}, which cannot be read ({e}). "
            f'Give the path of a text file, or "auto" for what the lab model brings along.'
        ) from e


def read_records(source: str, probe: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the objects of a JSON-lines file, each with its place ("facts.jsonl, line 3") for messages.

    Raises:
        ConfigError: when there is no such file.
        EditDataError: when a line is not a JSON object; names it.
    """
    records = []
    for number, line in enumerate(open_source(source, probe).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as e:
            raise EditDataError(f"{where}: not JSON ({e}); one JSON object a line is needed.") from e
        if not isinstance(record, dict):
            raise EditDataError(f"{where}: {type(record).__name__} found, but a JSON object is needed.")
        records.append((where, record))
    return records


def text_field(record: dict[str, Any], key: str, where: str) -> str:
    """Return a non-empty text field.

    Raises:
        EditDataError: when it is missing, empty or no text.
    """
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise EditDataError(f"{where}: `{key}` is {value!r}, but a non-empty text is needed.")
    return value
