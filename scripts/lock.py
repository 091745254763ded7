"""The exact versions with which the checks are run: made from what pip resolves, and held against an environment.

make lock                                          # resolve anew and write requirements/ci.txt
python scripts/lock.py check requirements/ci.txt   # is this environment what the lock says, and nothing beside it?
python scripts/lock.py licences                    # under which licences its packages stand
python scripts/lock.py advisories requirements/ci.txt   # what PyPI says of those that are the newest of their kind
"""

import json
import platform
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

# Installed by venv itself, and the project.
OURS = {"errata", "pip"}
# What a CUDA build of torch brings along and a CPU build does not.
CUDA = re.compile(r"nvidia-|cuda-|triton$")


def lock(report: Mapping[str, Any]) -> str:
    """Return the constraints of a report of `pip install --dry-run --report`.

    A build's own suffix, such as torch's +cpu, is left out: `==2.13.0` takes the same release in any build.
    """
    versions = {
        canonicalize_name(item["metadata"]["name"]): Version(item["metadata"]["version"]).public
        for item in report["install"]
    }
    lines = [f"{n}=={v}" for n, v in sorted(versions.items()) if n not in OURS and not CUDA.match(n)]
    where = f"Python {report['environment']['python_version']}, {report['environment']['sys_platform']}"
    head = [f"# Made by `make lock` ({where}). Exact versions for the checks; pyproject.toml has the bounds.", ""]
    return "\n".join([*head, *lines]) + "\n"


def pinned(text: str) -> dict[str, Version]:
    """Return a lock's versions by name.

    Raises:
        ValueError: where a line is no exact version.
    """
    found = {}
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        requirement = Requirement(line)
        exact = [s.version for s in requirement.specifier if s.operator == "=="]
        if len(exact) != 1 or len(requirement.specifier) != 1 or "*" in exact[0]:
            raise ValueError(f"{line!r} is no exact version.")
        found[canonicalize_name(requirement.name)] = Version(exact[0])
    return found


def strangers(pins: Mapping[str, Version], installed: Mapping[str, str]) -> list[str]:
    """Return in words which installed packages the lock does not have, or has in another version."""
    found = []
    for name, version in sorted(installed.items()):
        if name in OURS or CUDA.match(name):
            continue
        if name not in pins:
            found.append(f"{name} {version} is installed and not in the lock")
        elif Version(version).public != pins[name].public:
            found.append(f"{name} {version} is installed, the lock has {pins[name]}")
    return found


def licence(distribution: Distribution) -> str:
    """Return what a package says of its licence, in its shortest form."""
    meta = distribution.metadata
    names = [c.rpartition(" :: ")[2] for c in meta.get_all("Classifier") or [] if c.startswith("License ::")]
    said = meta.get("License-Expression") or ", ".join(sorted(names)) or (meta.get("License") or "").strip()
    return said.splitlines()[0][:60] if said else "not said"


def licences(packages: Iterable[Distribution]) -> str:
    """Return a table row a licence."""
    found = defaultdict(list)
    for distribution in packages:
        found[licence(distribution)].append(canonicalize_name(distribution.metadata["Name"]))
    rows = [f"| {k} | {len(v)} | {', '.join(sorted(v))} |" for k, v in sorted(found.items(), key=lambda x: -len(x[1]))]
    return "\n".join(["| licence | packages | which |", "|---|---|---|", *rows])


def advisories(pins: Mapping[str, Version], asked: Callable[[str], Mapping[str, Any]]) -> list[str]:
    """Return in words what PyPI holds against the locked versions, and of which it tells nothing.

    A project's page lists advisories against its newest release alone; those against one release stand elsewhere, where
    pip-audit (`make audit`) reads them. This is for where only the pages can be reached.

    Args:
        pins: a lock's versions by name.
        asked: returns the JSON of a project's page.
    """
    found, silent = [], []
    for name, version in pins.items():
        page = asked(name)
        if Version(page["info"]["version"]) != version:
            silent.append(f"{name} {version}")
            continue
        seen: set[str] = set()  # one vulnerability stands there once for each database that has it
        for advisory in page["vulnerabilities"]:
            names = [advisory["id"], *advisory.get("aliases", [])]
            if not advisory.get("withdrawn") and seen.isdisjoint(names):
                mended = ", ".join(advisory["fixed_in"]) or "no release"
                found.append(f"{name} {version}: {', '.join(names)}; mended in {mended}")
            seen.update(names)
    told = f"{len(pins) - len(silent)} of {len(pins)} are the newest release; known against these: {len(found)}"
    return [told, *found, f"not the newest, so nothing is told of: {', '.join(silent) or 'none'}"]


def pypi(name: str) -> Mapping[str, Any]:
    """Return the JSON of a project's page on PyPI."""
    with urlopen(f"https://pypi.org/pypi/{name}/json", timeout=60) as answer:
        return json.load(answer)  # type: ignore[no-any-return]


def main(arguments: list[str]) -> int:
    """Do what is asked for."""
    match arguments:
        case ["write", report]:
            print(lock(json.loads(Path(report).read_text(encoding="utf-8"))), end="")
        case ["check", file]:
            installed = {canonicalize_name(d.metadata["Name"]): d.version for d in distributions()}
            found = strangers(pinned(Path(file).read_text(encoding="utf-8")), installed)
            print("\n".join(found) or f"{len(installed)} packages on Python {platform.python_version()}, as locked")
            return bool(found)
        case ["advisories", file]:
            print("\n".join(advisories(pinned(Path(file).read_text(encoding="utf-8")), pypi)))
        case ["licences"]:
            print(licences(distributions()))
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
