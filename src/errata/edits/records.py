"""Read records from JSON, JSON Lines, either of them gzipped, or the hub, each with the place it came from."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from errata.errors import EditDataError

__all__ = ["local_records", "records"]

Record = Mapping[str, Any]
_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_HUB_TIMEOUT_S = 3.0


def records(source: str) -> Iterator[tuple[str, Record]]:
    """Yield (place, record) from a local file where there is one, else from a hub data set, all its splits in turn.

    Args:
        source: a file, or a hub name "owner/name".

    Raises:
        EditDataError: when there is neither, or a record is not a JSON object; names file and line.
    """
    path = Path(source)
    if path.exists():
        return local_records(path)
    if path.is_absolute() or source.endswith(_ENDINGS) or source.count("/") != 1:
        raise EditDataError(f"there is no file {source}; edits.path is a {', '.join(_ENDINGS)} file or a hub name.")
    return _hub_records(source)


def local_records(path: Path) -> Iterator[tuple[str, Record]]:
    """Yield (place, record) from a local file: a list in .json, one object a line in .jsonl, `.gz` after either."""
    if not path.is_file() or not path.name.endswith(_ENDINGS):
        raise EditDataError(f"{path} is not a file of facts; a file ending in {', '.join(_ENDINGS)} is needed.")
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise EditDataError(f"{path} is not UTF-8 ({e}). Convert it: iconv -f latin1 -t utf-8.") from e
    except (OSError, EOFError, zlib.error) as e:
        raise EditDataError(f"{path} cannot be read, or is cut short ({e}). Fetch or write it again.") from e
    return _lines(path, text) if ".jsonl" in path.name else _list(path, text)


def _lines(path: Path, text: str) -> Iterator[tuple[str, Record]]:
    # Not splitlines(): U+2028 and its kin are ordinary characters inside a JSON text.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"{path}, line {number}"
            yield place, _object(place, _parsed(place, line))


def _list(path: Path, text: str) -> Iterator[tuple[str, Record]]:
    content = _parsed(str(path), text)
    if not isinstance(content, list):
        raise EditDataError(f"{path} holds a {type(content).__name__}, but a list of records is needed.")
    for number, record in enumerate(content, 1):
        place = f"{path}, record {number}"
        yield place, _object(place, record)


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as e:
        raise EditDataError(f"{place}: not valid JSON ({e}). Mend or remove it.") from e


def _object(place: str, record: Any) -> Record:
    if not isinstance(record, dict):
        raise EditDataError(f"{place}: a JSON object is needed, found {json.dumps(record, ensure_ascii=False)[:80]}.")
    return record


def _hub_records(name: str) -> Iterator[tuple[str, Record]]:
    from datasets import load_dataset
    from huggingface_hub import HfApi, constants

    try:
        # Asked once and briefly: `datasets` alone retries for minutes when there is no network.
        if not constants.HF_HUB_OFFLINE:
            HfApi().dataset_info(name, timeout=_HUB_TIMEOUT_S)
        splits = load_dataset(name)
    except Exception as e:
        raise EditDataError(
            f"{name!r} is no file here and no data set that the hub gives ({type(e).__name__}). Give a local file, "
            f"or set HF_HUB_OFFLINE=1 to use a copy fetched earlier."
        ) from e
    for split, rows in splits.items():
        for number, row in enumerate(rows):
            yield f"{name}, {split} {number}", row
