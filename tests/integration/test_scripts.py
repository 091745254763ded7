"""What the scripts rely on when they run many commands."""

import runpy
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
def test_a_script_finds_what_it_imports(name: str, monkeypatch, capsys) -> None:
    # Where a script looks when it is started: in its own folder, and not in the tests'.
    elsewhere = [place for place in sys.path if not Path(place).is_relative_to(SCRIPTS.parent / "tests")]
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *elsewhere])
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    assert not ended.value.code
    assert f"usage: {name}.py" in capsys.readouterr().out
