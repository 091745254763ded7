"""Kill, starve and damage run, edit, undo and export at every place where they touch the disk, and look what is left.

    python tests/robustness.py FOLDER                 # every place: some hundred, a few minutes
    python tests/robustness.py FOLDER --points 12     # a sample, as the test makes it

Each trial runs in a process forked from this one, which has imported everything and computed nothing (torch's autograd
does not survive a fork once it has been used). At the chosen call the process ends at once ("before", "after"), ends
with the file cut short as after a power cut ("torn"), or is told that the disk is full or read-only.
Then the operation is called again, in a process of its own, and what is there is compared with what an undisturbed one
leaves.
"""

import argparse
import errno
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import torch

from errata.errors import ErrataError
from errata.export import export
from errata.models import load
from errata.studies.correct import correct, correction_recipe
from errata.studies.edited import open_edited
from errata.studies.ledger import undo
from errata.studies.recipe import load_recipe
from errata.studies.run import resume, run
from tiny import tiny_facts, tiny_model, tiny_text_file

KINDS = ("before", "after", "torn", "full", "read-only")
KILLED, REFUSED, CRASHED = 9, 1, 70
WATCHED = ("fsync", "replace", "mkdir", "unlink", "rmdir", "open")
_FAULTS = {"full": errno.ENOSPC, "read-only": errno.EROFS}
_WRITING = set("wax+")


@dataclass(frozen=True)
class Trial:
    """One fault: which operation, at its which call, what happens there, and what came of it."""

    operation: str
    call: int
    name: str
    kind: str
    outcome: str
    problem: str = ""


class Calls:
    """Count the calls that touch the disk below a folder, and act at one of them."""

    def __init__(self, at: int = -1, kind: str = "before") -> None:
        self.at, self.kind = at, kind
        self.names: list[str] = []

    def meet(self, name: str, act: Callable[[], Any], descriptor: int | None = None) -> Any:
        self.names.append(name)
        if len(self.names) - 1 != self.at:
            # A full or read-only disk stays so.
            if self.kind in _FAULTS and 0 <= self.at < len(self.names) and name in ("open", "mkdir", "fsync"):
                raise OSError(_FAULTS[self.kind], os.strerror(_FAULTS[self.kind]))
            return act()
        if self.kind in _FAULTS:
            raise OSError(_FAULTS[self.kind], os.strerror(_FAULTS[self.kind]))
        if self.kind == "torn" and descriptor is not None:
            size = os.fstat(descriptor).st_size
            with suppress(OSError):  # a folder, or a file open for reading only
                os.ftruncate(descriptor, size // 2)
        if self.kind == "after":
            act()
        os._exit(KILLED)


@contextmanager
def watched(calls: Calls, folder: Path) -> Iterator[None]:
    """Let `calls` meet every call below `folder` that makes, flushes, renames or removes something."""
    real = {name: getattr(os, name) for name in WATCHED if name != "open"} | {"open": io.open}

    def inside(path: object) -> bool:
        return isinstance(path, str | os.PathLike) and Path(path).is_relative_to(folder)

    def on_path(name: str) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            act = lambda: real[name](path, *args, **kwargs)  # noqa: E731
            return calls.meet(name, act) if inside(path) else act()

        return call

    def fsync(descriptor: int) -> Any:
        return calls.meet("fsync", lambda: real["fsync"](descriptor), descriptor)

    def opening(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        act = lambda: real["open"](path, mode, *args, **kwargs)  # noqa: E731
        lock = inside(path) and Path(path).name == ".lock"
        return calls.meet("open", act) if inside(path) and _WRITING & set(mode) and not lock else act()

    patched = {name: on_path(name) for name in ("replace", "mkdir", "unlink", "rmdir")} | {"fsync": fsync}
    try:
        for name, function in patched.items():
            setattr(os, name, function)
        io.open = opening
        yield
    finally:
        for name, function in real.items():
            setattr(io if name == "open" else os, name, function)


def in_child(work: Callable[[], Any]) -> tuple[int, Any]:
    """Do work in a forked process; return its exit status and what it returned."""
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        os.close(receiving)
        try:
            value = json.dumps(work())
            status = 0
        except ErrataError as e:
            value, status = json.dumps(str(e)), REFUSED
        except BaseException as e:
            value, status = json.dumps(f"{type(e).__name__}: {e}"), CRASHED
        with os.fdopen(sending, "w") as pipe:
            pipe.write(value)
        os._exit(status)
    os.close(sending)
    with os.fdopen(receiving) as pipe:
        said = pipe.read()
    _, code = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(code), json.loads(said) if said else None


class Workshop:
    """The material of all trials, and the four operations with what each has to leave behind."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = root / "model"
        text = tiny_text_file(root)
        tiny = tiny_model("gpt2")
        tiny.model.save_pretrained(self.model)
        tiny.tokenizer.save_pretrained(self.model)
        (root / "facts.jsonl").write_text("".join(json.dumps(f.to_mapping()) + "\n" for f in tiny_facts(4)), "utf-8")
        self.recipe = load_recipe(
            {
                "model": {"name": str(self.model)},
                "method": {
                    "name": "memit-history", "layers": [1], "ridge": 0.01, "covariance_weight": 10.0,
                    "value": {"steps": 2}, "contexts": {"lengths": [[3, 1]]}, "statistics": {"source": str(text)},
                },
                "edits": {"dataset": "jsonl", "path": str(root / "facts.jsonl")},
                "probes": [{"name": "proficiency"}, {"name": "drift"}],
                "run": {"name": "r", "checkpoint_every": 2},
            }
        )  # fmt: skip
        method = self.recipe.method.settings
        overrides = [f"method.{key}={json.dumps(value)}" for key, value in method.items() if key != "name"]
        overrides += ["probes=[{name: proficiency}, {name: drift}]", "run.checkpoint_every=2"]
        self.correction = correction_recipe(str(self.model), "memit-history", root / "edit", 4, overrides=overrides)
        self.operations: Mapping[str, Callable[[Path], Any]] = {
            "run": self._run, "edit": self._edit, "undo": self._undo, "export": self._export,
        }  # fmt: skip

    def prepare(self, operation: str, folder: Path) -> None:
        """Lay out what the operation begins with."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if operation in ("undo", "export"):
            shutil.copytree(self.root / "finished", folder / "run")

    def _run(self, folder: Path) -> None:
        out = folder / "run"
        if (out / "run.json").exists():
            resume(out)
        else:
            run(self.recipe, out)

    def _edit(self, folder: Path) -> None:
        out = folder / "run"
        if (out / "run.json").exists():
            resume(out)
        else:
            correct(tiny_facts(4), self.correction, out, load(self.model))

    def _undo(self, folder: Path) -> None:
        # Killed after its line was written it has happened: calling it again would take back two more.
        edited = open_edited(folder / "run")
        left = len(edited.trajectory.journal.active_steps())
        edited.close()
        if left == 4:
            undo(folder / "run", last=2)

    def _export(self, folder: Path) -> None:
        if not (folder / "adapter").exists():
            export(folder / "run", folder / "adapter", "lora")

    def left(self, folder: Path) -> dict[str, Any]:
        """Return what is in a folder, without what differs between equal runs."""
        edited = open_edited(folder / "run")
        masters = {path: _hash(weight) for path, weight in edited.trajectory.masters().items()}
        edited.close()
        lines = (folder / "run" / "journal.jsonl").read_text("utf-8").splitlines()
        journal = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
        rows = {}
        for probe in sorted((folder / "run" / "probes").iterdir()):
            frame = pl.concat([pl.read_parquet(part) for part in sorted(probe.glob("*.parquet"))])
            rows[probe.name] = frame.write_csv()
        adapter = folder / "adapter"
        files = {f.name: f.read_bytes().hex() for f in adapter.glob("adapter*")} if adapter.exists() else {}
        extra = sorted(p.name for p in folder.rglob("*.part"))
        return {"masters": masters, "journal": journal, "rows": rows, "adapter": files, "leftovers": extra}


def _hash(weight: torch.Tensor) -> str:
    return weight.contiguous().numpy().tobytes().hex()[:4096] + str(float(weight.double().sum()))


def trial(shop: Workshop, operation: str, call: int, kind: str, whole: Mapping[str, Any]) -> Trial:
    """Disturb one operation at one call, call it again, and compare."""
    folder = shop.root / "trial"
    shop.prepare(operation, folder)
    calls = Calls(call, kind)

    def disturbed() -> str:
        with watched(calls, folder):
            shop.operations[operation](folder)
        return "finished"

    status, said = in_child(disturbed)
    outcome = {KILLED: "killed", REFUSED: "refused in words", 0: "finished"}.get(status, "crashed")
    if status == CRASHED and kind in _FAULTS:
        return Trial(operation, call, whole["calls"][call], kind, outcome, f"no words: {said}")
    again, said = in_child(lambda: shop.operations[operation](folder))
    if again:
        return Trial(operation, call, whole["calls"][call], kind, outcome, f"not to be continued: {said}")
    status, found = in_child(lambda: shop.left(folder))
    if status:
        return Trial(operation, call, whole["calls"][call], kind, outcome, f"not to be read: {found}")
    parts = ("masters", "journal", "rows", "adapter", "leftovers")
    wrong = [part for part in parts if found[part] != whole[part]]
    return Trial(operation, call, whole["calls"][call], kind, outcome, f"differs: {', '.join(wrong)}" if wrong else "")


def trials(root: Path, points: int | None = None, seed: int = 0) -> Iterator[Trial]:
    """Make trials at every call of every operation with every kind of fault, or at a sample of them."""
    shop = Workshop(root)
    wholes: dict[str, dict[str, Any]] = {}
    for operation in shop.operations:
        folder = root / "whole"
        shop.prepare(operation, folder)
        calls = Calls()

        def undisturbed(operation: str = operation, folder: Path = folder, calls: Calls = calls) -> list[str]:
            with watched(calls, folder):
                shop.operations[operation](folder)
            return calls.names

        status, names = in_child(undisturbed)
        assert status == 0, names
        _, wholes[operation] = in_child(lambda folder=folder: shop.left(folder))
        wholes[operation]["calls"] = names
        if operation == "run":
            shutil.copytree(folder / "run", root / "finished")
    places = [(o, call, kind) for o, whole in wholes.items() for call in range(len(whole["calls"])) for kind in KINDS]
    chosen = places if points is None else Random(seed).sample(places, min(points, len(places)))
    for operation, call, kind in chosen:
        yield trial(shop, operation, call, kind, wholes[operation])


def main() -> int:
    """Make the trials and count what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["ERRATA_CACHE"] = str(args.folder / "cache")
    args.folder.mkdir(parents=True, exist_ok=True)
    counted: dict[tuple[str, str, str], int] = {}
    wrong = []
    for found in trials(args.folder.resolve(), args.points, args.seed):
        key = (found.operation, found.kind, found.outcome)
        counted[key] = counted.get(key, 0) + 1
        if found.problem:
            wrong.append(found)
            print(found, flush=True)
    for (operation, kind, outcome), n in sorted(counted.items()):
        print(f"{operation:<8}{kind:<10}{outcome:<18}{n}")
    print(f"{sum(counted.values())} trials, {len(wrong)} with something lost, half-written or said without words")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
