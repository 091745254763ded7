"""What this machine has to offer a run: packages, devices, threads, room for files."""

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch
from packaging.requirements import Requirement

from errata.editors.statistics import default_cache
from errata.studies.findings import Finding, readable

__all__ = ["check_folder", "check_machine", "missing_packages"]

_ROOM = 1_000_000_000  # bytes; statistics of one layer of a 7B model take half of it
_BUSY = 0.5  # a machine is busy from this load a core on
_INTERNAL = ("all", "dev")


def check_machine() -> Iterator[Finding]:
    """Yield what was found of Python, packages, devices, threads and the statistics' cache."""
    shown = ", ".join(f"{name} {version(name)}" for name in ("errata", "torch", "transformers", "tokenizers"))
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}; {shown}")
    for extra, missing in missing_packages().items():
        if not extra and missing:
            yield Finding("packages", "failed", ", ".join(missing), "pip install --upgrade errata")
        elif missing:
            yield Finding(f"extra {extra}", "absent", ", ".join(missing), f"pip install 'errata[{extra}]'")
        elif extra:
            yield Finding(f"extra {extra}", "ok", "installed")
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        yield Finding("gpu", "ok", f"{torch.cuda.get_device_name()}: {readable(free)} of {readable(total)} free")
    else:
        yield Finding("gpu", "absent", "torch sees no CUDA device; models run on the CPU")
    yield _threads()
    yield check_folder("statistics", default_cache(), _ROOM)


def missing_packages() -> dict[str, list[str]]:
    """Return, for each extra of errata ("" for what it always needs), the packages that are missing or too old."""
    found: dict[str, list[str]] = {}
    for line in requires("errata") or []:
        need = Requirement(line)
        extra = "" if need.marker is None else str(need.marker).partition("extra == ")[2].strip("\"'")
        if extra in _INTERNAL:
            continue
        lacking = found.setdefault(extra, [])
        try:
            here = version(need.name)
        except PackageNotFoundError:
            lacking.append(f"{need.name} is not installed")
            continue
        if not need.specifier.contains(here, prereleases=True):
            lacking.append(f"{need.name} {here}, but {need.specifier} is needed")
    return found


def check_folder(check: str, folder: Path, need: int) -> Finding:
    """Find out whether a folder, which may not be there yet, can be written to and has room.

    Args:
        check: the finding's name.
        folder: where files will go.
        need: bytes that will be written.
    """
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(check, "failed", f"{folder} cannot be written to", "choose another place, or change its owner")
    free = shutil.disk_usage(there).free
    if free < need:
        what = f"{folder} has {readable(free)} free, about {readable(need)} will be written"
        return Finding(check, "failed", what, "free some space, or choose another place")
    return Finding(check, "ok", f"{folder}: {readable(free)} free")


def _threads() -> Finding:
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    found = f"{threads} threads on {cores} cores, load {load:.1f}"
    if threads > 1 and load > _BUSY * cores:
        advice = "several torch processes with several threads each get in each other's way: OMP_NUM_THREADS=1 for each"
        return Finding("threads", "warning", found, advice)
    return Finding("threads", "ok", found)
