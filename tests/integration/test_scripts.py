"""What the scripts rely on when they run many commands."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_every_command_that_fails_is_counted() -> None:
    two_at_a_time = runpy.run_path(str(SCRIPTS / "jobs.py"))["two_at_a_time"]
    jobs = [[sys.executable, "-S", "-c", f"raise SystemExit({status})"] for status in (0, 3, 0, 1, 1)]
    assert two_at_a_time(jobs) == 3
    assert two_at_a_time([]) == 0


@pytest.mark.parametrize("name", ["lab_methods", "lab_card"])
def test_a_script_finds_what_it_imports(name: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPTS / f"{name}.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
