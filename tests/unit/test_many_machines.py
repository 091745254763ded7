"""The scripts of docs/many-machines.md are what a shell reads, and their sweeps are what recipes allow."""

import re
import shlex
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from errata.cli import app
from errata.editors.registry import resolve_settings
from errata.editors.settings import EditorSettings
from errata.models import outline
from errata.studies.grid import Cell, cells, read_grid

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "many-machines.md").read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r'```bash title="([^"]+)"\n(.*?)```', TEXT, re.DOTALL))
COMMANDS = [
    shlex.split(found.replace("\\\n", " "), comments=True)
    for found in re.findall(r"errata (?:sweep|evaluate) (?:[^\n]*\\\n)*[^\n]*", TEXT)
    if "..." not in found and "`" not in found
]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_shell_reads_the_script(name) -> None:
    done = subprocess.run(["bash", "-n"], input=SCRIPTS[name], text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_there_are_a_slurm_array_a_ray_cluster_and_one_under_slurm() -> None:
    assert set(SCRIPTS) == {"sweep.slurm", "cluster.sh", "ray.slurm"}
    assert "#SBATCH --array=" in SCRIPTS["sweep.slurm"]
    assert len(COMMANDS) == 7


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_options_exist_and_the_grids_are_of_recipes(command) -> None:
    options = CliRunner(env={"COLUMNS": "400"}).invoke(app, [command[1], "--help"]).stdout
    for word in command:
        if word.startswith("--"):
            assert f"{word} " in options
    if command[1] == "sweep":
        given = {flag: [b for a, b in pairwise(command) if a == flag] for flag in ("-o", "--grid")}
        found = cells(ROOT / command[2], given["-o"], read_grid(given["--grid"]))
        assert len({cell.directory for cell in found}) == len(found) > 1
        for cell in found:
            settings_of(cell)


@pytest.mark.parametrize("row", re.findall(r"`((?:-o [^`]+ )?--grid [^`]+)`", TEXT))
def test_every_example_of_the_table_is_a_grid_whose_methods_have_its_settings(row) -> None:
    words = shlex.split(row)
    given = {flag: [b for a, b in pairwise(words) if a == flag] for flag in ("-o", "--grid")}
    for cell in cells(ROOT / "recipes" / "demo.yaml", given["-o"], read_grid(given["--grid"])):
        settings_of(cell)


def settings_of(cell: Cell) -> EditorSettings:
    """Resolve a run's method over an outline of its model, or of the lab's where that is not at hand."""
    named = cell.recipe.model.name
    name = named if named.startswith("lab-") else "lab-s"
    return resolve_settings(cell.recipe.method.name, shape(name), cell.recipe.method.settings)


shape = cache(outline)
