"""The built wheel, installed with nothing but its declared dependencies, away from the checkout."""

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from errata.lab.models import LAB_MODELS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of an empty environment into which the wheel was installed."""
    root = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", root, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = root.glob("*.whl")
    venv.create(root / "env", with_pip=True)
    interpreter = root / "env" / "bin" / "python"
    for requirement in ("torch==2.13.0", str(wheel)):
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", requirement], check=True, capture_output=True)
    return interpreter


def test_the_first_lines_of_the_readme_edit_a_fact(python, tmp_path) -> None:
    match = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    lines = [line for line in match.group(1).splitlines() if line.strip()]
    assert len(lines) <= 6
    done = subprocess.run([python, "-c", match.group(1)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "before" in done.stdout
    assert "after" in done.stdout


def test_lab_info_prints_the_cards(python, tmp_path) -> None:
    done = subprocess.run([python.parent / "errata", "lab", "info"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in LAB_MODELS:
        assert name in done.stdout
