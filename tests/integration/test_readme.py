"""Every command that the README shows runs as it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from errata.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Return the lines of the README's bash blocks, in their order."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    return [line.split("  #")[0] for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the commands are typed: a folder with the recipes in it, as a checkout has them."""
    root = tmp_path_factory.mktemp("readme")
    (root / "recipes").symlink_to(ROOT / "recipes")
    return root


def test_the_readme_shows_commands() -> None:
    assert len(commands()) >= 10


def test_the_commands_of_the_readme(folder: Path, with_lab_cache, monkeypatch, capsys) -> None:
    # One after another: later ones read what earlier ones wrote. In this process, where a warning is an error too;
    # that a command starts by itself is tested with `errata run` and the wheel's `errata`.
    monkeypatch.chdir(folder)
    for command in commands():
        program, *arguments = shlex.split(command)
        if program == "echo":  # writes a file of facts
            subprocess.run(command, shell=True, check=True)
            continue
        assert program == "errata"
        monkeypatch.setattr(sys, "argv", ["errata", *arguments])
        try:
            main()
            status = 0
        except SystemExit as e:
            status = e.code or 0
        out, err = capsys.readouterr()
        assert not status, f"{command}: {err}"
        assert out.strip(), command


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_has_the_target(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_linked_files_exist() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
