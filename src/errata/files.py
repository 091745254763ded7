"""Write files so that a reader, or a crash, never sees half of one; read text that a user has written."""

import codecs
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from errata.errors import ErrataError

__all__ = [
    "REFUSALS",
    "append_lines",
    "cache_root",
    "decoded",
    "folder_aside",
    "read_text",
    "sync_folder",
    "write_aside",
]

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
"""By what number a disk says that it takes no more: the user's to mend, and no bug."""


def cache_root() -> Path:
    """Return the directory of what can be computed anew: $ERRATA_CACHE, else ~/.cache/errata."""
    return Path(os.environ.get("ERRATA_CACHE") or Path.home() / ".cache" / "errata")


def read_text(path: Path, error: type[ErrataError], what: str = "") -> str:
    """Return a text file that a user has written.

    Args:
        path: the file.
        error: raised where it cannot be read.
        what: which setting names it, for the message.
    """
    try:
        content = path.read_bytes()
    except OSError as e:
        why = (
            f"{path} is a directory, but a file is needed"
            if path.is_dir()
            else f"there is no file {path}"
            if isinstance(e, FileNotFoundError)
            else f"{path} cannot be read ({e.strerror})"
        )
        raise error(f"{what}: {why}." if what else f"{why}.") from e
    return decoded(content, path, error, what=what).replace("\r\n", "\n").replace("\r", "\n")


def decoded(content: bytes, path: Path, error: type[ErrataError], line: int = 1, what: str = "") -> str:
    """Return bytes of a user's file as text; a byte-order mark at its beginning is left out.

    Args:
        content: what was read.
        path: from which file.
        error: raised where it is not UTF-8; names file, line, byte, and how to convert it.
        line: the number of the content's first line.
        what: which setting names the file, for the message.
    """
    try:
        return content.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as e:
        # Word processors and spreadsheets that save "Unicode" begin so; else what is not UTF-8 is mostly Latin-1.
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        number = line + e.object[: e.start].count(10)  # line ends
        at = "" if wide else f", line {number}"
        found = "looks like UTF-16" if wide else f"the byte 0x{e.object[e.start]:02X} is not UTF-8"
        raise error(
            f"{what}{': ' if what else ''}{path}{at}: {found}, and text files must be UTF-8. "
            f"Convert it: iconv -f {'utf-16' if wide else 'latin1'} -t utf-8 {path} > NEW"
        ) from e


def write_aside(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to disk, then rename it into place.

    Args:
        path: the final name; its directory is made when absent.
        content: the whole file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append_lines(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    """Append one JSON object a line in a single flushed write; what fails on the way is taken back.

    A crash leaves a prefix of the lines. A torn line at the file's end, as an earlier crash left it, is cut off first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    # Unbuffered: Python's buffer would write the rest of a failed batch once more while the file is closed.
    with path.open("a+b", buffering=0) as f:
        start = _end_of_lines(f)
        f.truncate(start)
        try:
            while data:
                data = data[f.write(data) :]
            os.fsync(f.fileno())
        except BaseException:
            f.truncate(start)
            raise
    if not start:
        sync_folder(path.parent)


def _end_of_lines(f: IO[bytes]) -> int:
    """Return where a file's last whole line ends."""
    end = f.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - 4096)
        f.seek(begin)
        block = f.read(end - begin)
        if b"\n" in block:
            return begin + block.rfind(b"\n") + 1
        end = begin
    return 0


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk: a file's new name is not on disk before its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Give a folder to fill beside `path`; at the end flush all of it to disk and rename it into place.

    What an interrupted call has left beside `path` is removed by the next one.

    Args:
        path: the final name; absent, or an empty folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        yield aside
        for file in sorted(aside.rglob("*")):
            if file.is_file():
                with file.open("rb") as f:
                    os.fsync(f.fileno())
            else:
                sync_folder(file)
        sync_folder(aside)
        aside.replace(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_folder(path.parent)
