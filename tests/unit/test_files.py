"""A file is either whole and new, or as it was."""

import os
from pathlib import Path

import pytest

from errata.files import write_aside


def full(*_args: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch, broken: str) -> None:
    file = tmp_path / "deep" / "file"
    write_aside(file, b"old")
    if broken == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_aside(file, b"new")
    assert file.read_bytes() == b"old"
    assert [p.name for p in file.parent.iterdir()] == ["file"]


def test_a_whole_write_replaces_the_file(tmp_path: Path) -> None:
    for content in (b"a longer first content", b"", b"b"):
        write_aside(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
