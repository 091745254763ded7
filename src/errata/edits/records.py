"""Read records from JSON, JSON Lines, either of them gzipped, CSV, or the hub, each with the place it came from."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from errata.errors import EditDataError
from errata.files import decoded

__all__ = ["Refuse", "local_records", "raising", "records"]

Record = Mapping[str, Any]
Refuse = Callable[[EditDataError], None]
_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".csv")
_HUB_FILE = "hf://datasets/"
_HUB_TIMEOUT_S = 3.0


def raising(error: EditDataError) -> None:
    """Raise: what a reader does with a malformed record unless it is told otherwise."""
    raise error


def records(source: str, refuse: Refuse = raising) -> Iterator[tuple[str, Record]]:
    """Yield (place, record) from a local file or directory where there is one, else from the hub.

    Args:
        source: a file; a directory, whose files are read in the order of their names; "owner/name" for all splits of a
            hub data set in turn, "owner/name:split" for one; or "hf://datasets/owner/name/file.json", one file of it.
        refuse: receives what is wrong with a record of a file, which is then left out; raises it by default.

    Raises:
        EditDataError: when there is neither, or a record is not a JSON object; names file and line.
    """
    path = Path(source)
    if path.is_dir():
        return _folder_records(path, refuse)
    if path.exists():
        return local_records(path, refuse)
    if source.startswith(_HUB_FILE) and source.count("/") >= 5:
        return local_records(_hub_file(source), refuse)
    if path.is_absolute() or source.endswith(_ENDINGS) or source.count("/") != 1:
        raise EditDataError(
            f"there is no file {source}; edits.path is a {', '.join(_ENDINGS)} file, a directory of them, or a hub "
            f"name (owner/name, owner/name:split, {_HUB_FILE}owner/name/file.json)."
        )
    return _hub_records(source)


def local_records(path: Path, refuse: Refuse = raising) -> Iterator[tuple[str, Record]]:
    """Yield (place, record) from a local file: a list in .json, one object a line in .jsonl, `.gz` after either."""
    if not path.is_file() or not path.name.endswith(_ENDINGS):
        raise EditDataError(f"{path} is not a file of facts; a file ending in {', '.join(_ENDINGS)} is needed.")
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as e:
        raise EditDataError(f"{path} cannot be read, or is cut short ({e}). Fetch or write it again.") from e
    text = decoded(content, path, EditDataError)
    if path.suffix == ".csv":
        return _table(path, text, refuse)
    return _lines(path, text, refuse) if ".jsonl" in path.name else _list(path, text, refuse)


def _folder_records(folder: Path, refuse: Refuse) -> Iterator[tuple[str, Record]]:
    files = sorted(path for path in folder.iterdir() if path.name.endswith(_ENDINGS))
    if not files:
        raise EditDataError(f"the directory {folder} holds no file ending in {', '.join(_ENDINGS)}.")
    for file in files:
        yield from local_records(file, refuse)


def _table(path: Path, text: str, refuse: Refuse) -> Iterator[tuple[str, Record]]:
    """Yield the rows of a table with a header line; empty cells are left out."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = list(reader.fieldnames or ())
        if len(header) == 1 and (other := next((sign for sign in ";\t|" if sign in header[0]), None)):
            raise EditDataError(
                f"{path}: its columns are separated by {other!r}, but commas are needed. Save it again with commas."
            )
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                refuse(EditDataError(f"{place}: {len(header)} cells are needed, as in the header line."))
                continue
            yield place, {name: cell for name, cell in row.items() if cell.strip()}
    except csv.Error as e:
        refuse(EditDataError(f"{path}, line {reader.line_num}: not valid CSV ({e}). Mend or remove it."))


def _lines(path: Path, text: str, refuse: Refuse) -> Iterator[tuple[str, Record]]:
    # Not splitlines(): U+2028 and its kin are ordinary characters inside a JSON text.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"{path}, line {number}"
            try:
                record = _object(place, _parsed(place, line))
            except EditDataError as e:
                refuse(e)
                continue
            yield place, record


def _list(path: Path, text: str, refuse: Refuse) -> Iterator[tuple[str, Record]]:
    content = _parsed(str(path), text)
    if not isinstance(content, list):
        raise EditDataError(f"{path} holds a {type(content).__name__}, but a list of records is needed.")
    for number, found in enumerate(content, 1):
        place = f"{path}, record {number}"
        try:
            record = _object(place, found)
        except EditDataError as e:
            refuse(e)
            continue
        yield place, record


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise EditDataError(f"{place}: not valid JSON ({e}). Mend or remove it.") from e


def _object(place: str, record: Any) -> Record:
    if not isinstance(record, dict):
        raise EditDataError(f"{place}: a JSON object is needed, found {json.dumps(record, ensure_ascii=False)[:80]}.")
    return record


def _hub_records(name: str) -> Iterator[tuple[str, Record]]:
    from datasets import load_dataset

    repository, _, wanted = name.partition(":")
    with _from_hub(repository):
        splits = load_dataset(repository)
    if wanted and wanted not in splits:
        raise EditDataError(f"{repository} has no split {wanted!r}; it has {', '.join(splits)}.")
    for split, rows in splits.items() if not wanted else [(wanted, splits[wanted])]:
        for number, row in enumerate(rows):
            yield f"{repository}, {split} {number}", row


def _hub_file(source: str) -> Path:
    from huggingface_hub import hf_hub_download

    owner, name, file = source.removeprefix(_HUB_FILE).split("/", 2)
    with _from_hub(f"{owner}/{name}"):
        return Path(hf_hub_download(f"{owner}/{name}", file, repo_type="dataset"))


@contextmanager
def _from_hub(name: str) -> Iterator[None]:
    from huggingface_hub import HfApi, constants

    try:
        # Asked once and briefly: `datasets` alone retries for minutes when there is no network.
        if not constants.HF_HUB_OFFLINE:
            HfApi().dataset_info(name, timeout=_HUB_TIMEOUT_S)
        yield
    except Exception as e:
        raise EditDataError(
            f"{name!r} is no file here and no data set that the hub gives ({type(e).__name__}). Give a local file, "
            f"or set HF_HUB_OFFLINE=1 to use a copy fetched earlier."
        ) from e
