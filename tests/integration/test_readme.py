"""Every command that the README shows runs as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_six_lines(tmp_path) -> None:
    match = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert match is not None
    done = subprocess.run([sys.executable, "-c", match.group(1)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after = (line for line in done.stdout.splitlines() if line.strip().startswith(("before", "after")))
    target = re.search(r'target_new="(\w+)"', match.group(1))
    assert target is not None
    assert target.group(1) not in before
    assert target.group(1) in after, done.stdout


def test_the_commands_of_the_readme(folder: Path) -> None:
    # One after another: later ones read what earlier ones wrote.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for command in commands():
        program, *arguments = shlex.split(command)
        assert program == "errata"
        done = subprocess.run(
            [sys.executable, "-m", "errata", *arguments], cwd=folder, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout.strip(), command


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_has_the_target(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_linked_files_exist() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
