"""The lock of the checks: whole, exact, within the bounds of pyproject.toml, and able to tell what is not in it."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
_PLACE = importlib.util.spec_from_file_location("lock_script", ROOT / "scripts" / "lock.py")
assert _PLACE
assert _PLACE.loader
_SCRIPT = importlib.util.module_from_spec(_PLACE)
_PLACE.loader.exec_module(_SCRIPT)
lock, pinned, strangers = _SCRIPT.lock, _SCRIPT.pinned, _SCRIPT.strangers

TEXT = (ROOT / "requirements" / "ci.txt").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DIRECT = [
    Requirement(r) for part in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()) for r in part
]


@pytest.mark.parametrize("wanted", [r for r in DIRECT if r.name != "errata"], ids=str)
def test_every_direct_dependency_is_locked_within_its_bounds(wanted: Requirement) -> None:
    pins = pinned(TEXT)
    assert canonicalize_name(wanted.name) in pins, "run `make lock`"
    assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)], prereleases=True)
    assert all(s.operator == ">=" for s in wanted.specifier), "bounds are lower bounds alone"


def test_the_lock_can_be_installed_by_others() -> None:
    lines = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
    assert list(pinned(TEXT)) == sorted(pinned(TEXT))
    assert not [line for line in lines if "+" in line or "@" in line or "/" in line]
    assert not [line for line in lines if re.match(r"nvidia|triton", line)]
    assert pinned(TEXT)["torch"] == Version("2.13.0")
    assert '"torch==2.13.0"' in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_a_report_becomes_exact_public_versions() -> None:
    names = [("torch", "2.13.0+cpu"), ("PyYAML", "6.0.4"), ("errata", "0.1.0"), ("nvidia-cublas", "13"), ("pip", "26")]
    items = [{"metadata": {"name": n, "version": v}} for n, v in names]
    text = lock({"install": items, "environment": {"python_version": "3.11", "sys_platform": "linux"}})
    assert pinned(text) == {"pyyaml": Version("6.0.4"), "torch": Version("2.13.0")}


@pytest.mark.parametrize("line", ["torch>=2.6", "torch", "torch==2.*", "torch>=2.6,==2.13.0"])
def test_a_range_is_no_lock(line: str) -> None:
    with pytest.raises(ValueError, match="no exact version"):
        pinned(line)


def test_what_is_not_in_the_lock_is_named() -> None:
    pins = {"torch": Version("2.13.0"), "rich": Version("15.0")}
    installed = {"torch": "2.13.0+cpu", "rich": "14.9", "leftpad": "1.0", "errata": "0.1.0", "pip": "26"}
    assert strangers(pins, installed) == [
        "leftpad 1.0 is installed and not in the lock",
        "rich 14.9 is installed, the lock has 15.0",
    ]


def test_advisories_are_of_the_newest_release_and_silence_is_told() -> None:
    known = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fixed_in": []}
    again = {"id": "GHSA-1", "aliases": ["CVE-1", "PYSEC-1"], "fixed_in": []}
    gone = {"id": "PYSEC-2", "fixed_in": ["3"], "withdrawn": "2026-01-01"}
    pages = {
        "old": {"info": {"version": "2"}, "vulnerabilities": [known]},
        "new": {"info": {"version": "1.0"}, "vulnerabilities": [known, gone, again]},
    }
    told = _SCRIPT.advisories({"old": Version("1"), "new": Version("1")}, pages.__getitem__)
    assert told == [
        "1 of 2 are the newest release; known against these: 1",
        "new 1: PYSEC-1, CVE-1; mended in no release",
        "not the newest, so nothing is told of: old 1",
    ]


def test_what_a_cuda_build_of_torch_brings_is_no_stranger() -> None:
    assert not strangers({"torch": Version("2.13.0")}, {"torch": "2.13.0", "nvidia-nccl-cu13": "2.28", "triton": "3.6"})


@pytest.mark.parametrize(("environment", "locked"), [({}, True), ({"VIRTUAL_ENV": "/of/mine"}, False)])
def test_an_environment_of_one_s_own_keeps_what_it_has(environment: dict[str, str], locked: bool) -> None:
    clean = {"PATH": "/usr/bin:/bin", **environment}
    # An environment that is not there yet: nothing would be installed into one that is.
    place = [] if environment else ["VENV=build/none"]
    done = subprocess.run(["make", "-n", "test", *place], cwd=ROOT, capture_output=True, text=True, env=clean)
    assert done.returncode == 0, done.stderr
    installs = [line for line in done.stdout.splitlines() if "pip install" in line]
    assert installs
    assert all(("--constraint requirements/ci.txt" in line) is locked for line in installs)
    given = subprocess.run(
        ["make", "-n", "docs", "LOCK=requirements/ci.txt"], cwd=ROOT, capture_output=True, text=True, env=clean
    )
    assert "--constraint requirements/ci.txt" in given.stdout
