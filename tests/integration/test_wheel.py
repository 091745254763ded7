"""The built wheel, installed with nothing but its declared dependencies, away from the checkout."""

import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from errata.lab.models import LAB_MODELS

ROOT = Path(__file__).parents[2]
# Neither the checkout's sources nor what has been computed for other tests.
ALONE = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "ERRATA_CACHE")}


def declared(requirements: Iterable[str]) -> dict[str, Distribution]:
    """Return what this environment has of the requirements, and of theirs, and so on."""
    found: dict[str, Distribution] = {}
    asked = [(Requirement(line), "") for line in requirements]
    met = set()
    while asked:
        requirement, extra = asked.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            if (requirement.name, wanted) not in met:
                met.add((requirement.name, wanted))
                found[requirement.name] = distribution(requirement.name)
                asked += [(Requirement(line), wanted) for line in found[requirement.name].requires or ()]
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of an environment that holds the wheel and links to what it declares, and nothing else."""
    root = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", root, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = root.glob("*.whl")
    venv.create(root / "env")
    interpreter = root / "env" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet", "--no-deps", wheel]
    subprocess.run(install, check=True, capture_output=True)
    (site,) = (root / "env").glob("lib/python*/site-packages")
    (errata,) = Distribution.discover(name="errata", path=[str(site)])
    for needed in declared(errata.requires or ()).values():
        for top in {file.parts[0] for file in needed.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():  # several distributions may share a folder
                (site / top).symlink_to(needed.locate_file(top))
    return interpreter


def test_the_first_lines_of_the_readme_edit_a_fact(python, tmp_path) -> None:
    match = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    lines = [line for line in match.group(1).splitlines() if line.strip()]
    assert len(lines) <= 6
    environment = {**ALONE, "ERRATA_CACHE": str(tmp_path / "cache")}
    command = [python, "-c", match.group(1)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    before, after = (line for line in done.stdout.splitlines() if line.strip().startswith(("before", "after")))
    target = re.search(r'target_new="(\w+)"', match.group(1))
    assert target is not None
    assert target.group(1) not in before
    assert target.group(1) in after, done.stdout


def test_what_is_there_is_what_is_declared(python, tmp_path) -> None:
    check = [sys.executable, "-m", "pip", "--python", python, "check"]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, env=ALONE)
    assert done.returncode == 0, done.stdout
    done = subprocess.run([python, "-c", "import pytest"], cwd=tmp_path, capture_output=True, text=True, env=ALONE)
    assert "No module named 'pytest'" in done.stderr


def test_lab_info_prints_the_cards(python, tmp_path) -> None:
    command = [python.parent / "errata", "lab", "info"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=ALONE)
    assert done.returncode == 0, done.stderr
    for name in LAB_MODELS:
        assert name in done.stdout
