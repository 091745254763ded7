"""Write files so that a reader, or a crash, never sees half of one."""

import os
from pathlib import Path

__all__ = ["write_aside"]


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
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
