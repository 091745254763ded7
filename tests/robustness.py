"""Kill, starve and damage run, edit, undo and export at every place where they touch the disk, and look what is left.

    python tests/robustness.py FOLDER                  # every place
    python tests/robustness.py FOLDER --points 12      # a sample, as the test makes it
    python tests/robustness.py FOLDER --points 200 --moments 40 --held 20 --damage --results trials.jsonl --seconds 200
    python tests/robustness.py FOLDER --results trials.jsonl --page

With --results each trial is kept as it ends, and those that are there are not made again; --seconds ends early.

Each trial runs in a process forked from this one, which has imported everything and computed nothing (torch's autograd
does not survive a fork once it has been used). At the chosen call the process ends at once ("before", "after"), ends
with half of what was not flushed lost as after a power cut ("torn"; the same as "before" where nothing was), or is
told that the disk is full or read-only.
Then the operation is called again, in a process of its own, and what is there is compared with what an undisturbed one
leaves. Besides: kill -9 at random moments of the operation's time ("moment"); a second process that begins while the
first stands still at a call ("held"), and must be refused; and every file of a finished run, damaged ("cut", "emptied",
"scrambled"), which must be named in an error or not be needed.
"""

import argparse
import errno
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from random import Random
from typing import IO, Any

import torch

from errata.analysis.frames import probe_frame
from errata.editors.registry import editors
from errata.errors import ErrataError
from errata.export import export
from errata.models import load
from errata.probes.registry import probes
from errata.studies.correct import correct, correction_recipe
from errata.studies.edited import open_edited
from errata.studies.ledger import undo
from errata.studies.recipe import load_recipe
from errata.studies.run import resume, run
from tiny import tiny_facts, tiny_model, tiny_text_file

KINDS = ("before", "after", "torn", "full", "read-only")
DAMAGES = ("cut", "emptied", "scrambled")
KILLED, REFUSED, CRASHED = 9, 1, 70
WATCHED = ("fsync", "replace", "mkdir", "unlink", "rmdir", "open")
_FAULTS = {"full": errno.ENOSPC, "read-only": errno.EROFS}
_WRITING = set("wax+")
PARTS = ("masters", "journal", "rows", "adapter", "leftovers")


@dataclass(frozen=True)
class Trial:
    """One fault: which operation, at its which call, what happens there, and what came of it.

    `call` counts random moments and the run's files where `kind` is of these.
    """

    operation: str
    call: int
    name: str
    kind: str
    outcome: str
    problem: str = ""


class Calls:
    """Count the calls that touch the disk below a folder, and act at one of them."""

    def __init__(self, at: int = -1, kind: str = "before", hold: Callable[[], None] = lambda: None) -> None:
        self.at, self.kind, self._hold = at, kind, hold
        self.names: list[str] = []
        self._flushed: dict[int, int] = {}

    def opened(self, file: IO[Any], mode: str) -> None:
        """Take what a file holds before it is appended to as being on the disk; of a new one nothing is."""
        state = os.fstat(file.fileno())
        if "a" in mode or "+" in mode:
            self._flushed.setdefault(state.st_ino, state.st_size)
        else:
            self._flushed[state.st_ino] = 0

    def meet(self, name: str, act: Callable[[], Any], descriptor: int | None = None) -> Any:
        self.names.append(name)
        if len(self.names) - 1 != self.at:
            if descriptor is not None:
                state = os.fstat(descriptor)
                self._flushed[state.st_ino] = state.st_size
            # A full or read-only disk stays so.
            if self.kind in _FAULTS and 0 <= self.at < len(self.names) and name in ("open", "mkdir", "fsync"):
                raise OSError(_FAULTS[self.kind], os.strerror(_FAULTS[self.kind]))
            return act()
        if self.kind in _FAULTS:
            raise OSError(_FAULTS[self.kind], os.strerror(_FAULTS[self.kind]))
        if self.kind == "held":
            self._hold()
            return act()
        if self.kind == "torn" and descriptor is not None:
            # A power cut takes of a file what has not been flushed yet, and leaves what has.
            state = os.fstat(descriptor)
            whole = min(self._flushed.get(state.st_ino, 0), state.st_size)
            with suppress(OSError):  # a folder, or a file open for reading only
                os.ftruncate(descriptor, whole + (state.st_size - whole) // 2)
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
        def act() -> Any:
            file = real["open"](path, mode, *args, **kwargs)
            if inside(path) and _WRITING & set(mode):
                calls.opened(file, mode)
            return file

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


def in_child(
    work: Callable[[], Any], kill_after: float | None = None, meanwhile: Callable[[], None] = lambda: None
) -> tuple[int, Any]:
    """Do work in a forked process; return its exit status and what it returned.

    Args:
        work: returns JSON values.
        kill_after: kill -9 the process after so many seconds.
        meanwhile: done here while the process works.
    """
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
    meanwhile()
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(receiving) as pipe:
        said = pipe.read()
    _, code = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(code)
    return KILLED if code == -signal.SIGKILL else code, json.loads(said) if said else None


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

    def files(self) -> list[Path]:
        """Return the files of a finished run, but for its lock."""
        finished = self.root / "finished"
        return sorted(f.relative_to(finished) for f in finished.rglob("*") if f.is_file() and f.name != ".lock")

    def left(self, folder: Path) -> dict[str, Any]:
        """Return what is in a folder, without what differs between equal runs."""
        edited = open_edited(folder / "run")
        masters = {path: _hash(weight) for path, weight in edited.trajectory.masters().items()}
        edited.close()
        lines = (folder / "run" / "journal.jsonl").read_text("utf-8").splitlines()
        journal = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
        rows = {}
        for probe in sorted((folder / "run" / "probes").iterdir()):
            rows[probe.name] = probe_frame(folder / "run", probe.name).write_csv()
        adapter = folder / "adapter"
        files = {f.name: f.read_bytes().hex() for f in adapter.glob("adapter*")} if adapter.exists() else {}
        extra = sorted(p.name for p in folder.rglob("*.part"))
        return {"masters": masters, "journal": journal, "rows": rows, "adapter": files, "leftovers": extra}


def _hash(weight: torch.Tensor) -> str:
    return hashlib.sha256(weight.contiguous().numpy().tobytes()).hexdigest()


def trial(shop: Workshop, operation: str, call: int, kind: str, whole: Mapping[str, Any], seed: int = 0) -> Trial:
    """Disturb one operation, call it again, and compare."""
    if kind in DAMAGES:
        return _damaged(shop, call, kind, whole)
    folder = shop.root / "trial"
    shop.prepare(operation, folder)
    name, said = "" if kind == "moment" else whole["calls"][call], None

    def work(calls: Calls) -> Callable[[], str]:
        def disturbed() -> str:
            with watched(calls, folder):
                shop.operations[operation](folder)
            return "finished"

        return disturbed

    if kind == "moment":
        moment = whole["seconds"] * Random(f"{seed} {operation} {call}").random()
        status, said = in_child(lambda: shop.operations[operation](folder), kill_after=moment)
        name = f"{moment:.3f} s"
    elif kind == "held":
        (reached, reach), (going, go) = os.pipe(), os.pipe()

        def hold() -> None:
            os.write(reach, b"x")
            os.read(going, 1)

        calls = Calls(call, kind, hold)
        second: list[tuple[int, Any]] = []

        def meanwhile() -> None:
            os.read(reached, 1)
            second.append(in_child(lambda: shop.operations[operation](folder)))
            os.write(go, b"x")

        status, said = in_child(work(calls), meanwhile=meanwhile)
        for end in (reached, reach, going, go):
            os.close(end)
        refusal, words = second[0]
        if refusal != REFUSED or "another process" not in words:
            return Trial(operation, call, name, kind, "not refused", f"the second process: {refusal}, {words}")
        if status:
            return Trial(operation, call, name, kind, "crashed", f"the first process: {said}")
    else:
        status, said = in_child(work(Calls(call, kind)))
    outcome = {KILLED: "killed", REFUSED: "refused in words", 0: "finished"}.get(status, "crashed")
    outcome = "second refused" if kind == "held" else outcome
    if status == CRASHED and kind in _FAULTS:
        return Trial(operation, call, name, kind, outcome, f"no words: {said}")
    again, said = in_child(lambda: shop.operations[operation](folder))
    if again:
        return Trial(operation, call, name, kind, outcome, f"not to be continued: {said}")
    status, found = in_child(lambda: shop.left(folder))
    if status:
        return Trial(operation, call, name, kind, outcome, f"not to be read: {found}")
    wrong = [part for part in PARTS if found[part] != whole[part]]
    return Trial(operation, call, name, kind, outcome, f"differs: {', '.join(wrong)}" if wrong else "")


def _damaged(shop: Workshop, number: int, kind: str, whole: Mapping[str, Any]) -> Trial:
    """Damage one file of a finished run; it must be named in an error, or what is read must be what was there."""
    folder = shop.root / "trial"
    shop.prepare("export", folder)
    file = shop.files()[number]
    place = folder / "run" / file
    content = place.read_bytes()
    Random(0).shuffle(scrambled := bytearray(content))
    place.write_bytes({"cut": content[: len(content) // 2], "emptied": b"", "scrambled": bytes(scrambled)}[kind])
    status, found = in_child(lambda: shop.left(folder))
    name = str(file)
    if status == REFUSED:
        named = file.name in found or file.parent.name in found
        return Trial("read", number, name, kind, "named", "" if named else f"not named: {found}")
    if status:
        return Trial("read", number, name, kind, "crashed", f"no words: {found}")
    wrong = [part for part in PARTS if found[part] != whole[part]]
    return Trial("read", number, name, kind, "not needed", f"read as whole: {', '.join(wrong)}" if wrong else "")


@dataclass(frozen=True)
class Plan:
    """How many trials of each sort: calls (None: all), random moments, held processes; whether files are damaged."""

    points: int | None = None
    moments: int = 0
    held: int = 0
    damage: bool = False
    seed: int = 0


def trials(root: Path, plan: Plan, done: Collection[tuple[str, int, str]] = ()) -> Iterator[Trial]:
    """Make the trials of a plan, but for those that have been made."""
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

        started = time.perf_counter()
        status, names = in_child(undisturbed)
        seconds = time.perf_counter() - started
        assert status == 0, names
        _, wholes[operation] = in_child(lambda folder=folder: shop.left(folder))
        wholes[operation] |= {"calls": names, "seconds": seconds}
        if operation == "run":
            shutil.copytree(folder / "run", root / "finished")
            wholes["read"] = wholes["run"]
    places = [(o, call, kind) for o in shop.operations for call in range(len(wholes[o]["calls"])) for kind in KINDS]
    rng = Random(plan.seed)
    chosen = places if plan.points is None else rng.sample(places, min(plan.points, len(places)))
    operations = list(shop.operations)
    chosen += [(operations[i % len(operations)], i, "moment") for i in range(plan.moments)]
    calls_of = [(o, call, "held") for o in operations for call in range(len(wholes[o]["calls"]))]
    chosen += rng.sample(calls_of, min(plan.held, len(calls_of)))
    chosen += [("read", i, kind) for i in range(len(shop.files())) for kind in DAMAGES if plan.damage]
    for operation, call, kind in chosen:
        if (operation, call, kind) not in done:
            yield trial(shop, operation, call, kind, wholes[operation], plan.seed)


def table(found: Iterable[Trial]) -> str:
    """Return a row for each operation and kind of fault, with what came of it."""
    kinds: dict[tuple[str, str], Counter[str]] = {}
    wrong: Counter[tuple[str, str]] = Counter()
    for one in found:
        kinds.setdefault((one.operation, one.kind), Counter())[one.outcome] += 1
        wrong[one.operation, one.kind] += bool(one.problem)
    rows = [
        "| operation | fault | trials | what came of it | lost, half-written or without words |",
        "|---|---|---|---|---|",
    ]
    for (operation, kind), outcomes in sorted(kinds.items()):
        came = ", ".join(f"{n} {outcome}" for outcome, n in sorted(outcomes.items()))
        rows.append(f"| {operation} | {kind} | {outcomes.total()} | {came} | {wrong[operation, kind]} |")
    return "\n".join(rows)


def _import_everything() -> None:
    """Import what the operations import when they are called, which else each process would do anew."""
    editors()
    probes()
    import_module("pandas")  # pyarrow's tables ask for it
    import_module("peft")


def main() -> int:
    """Make the trials and count what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, help="calls, drawn at random; all when absent")
    parser.add_argument("--moments", type=int, default=0, help="kill -9 at so many random moments")
    parser.add_argument("--held", type=int, default=0, help="a second process at so many calls")
    parser.add_argument("--damage", action="store_true", help="damage each file of a finished run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="a JSON line a trial; what stands there is not made again")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no trial after so long")
    parser.add_argument("--page", action="store_true", help="print the table of --results, and make no trial")
    args = parser.parse_args()
    torch.set_num_threads(1)
    _import_everything()
    root = args.folder.resolve() / "trials"
    os.environ["ERRATA_CACHE"] = str(root / "cache")
    kept = args.results.read_text("utf-8").splitlines() if args.results and args.results.exists() else []
    found = [Trial(**json.loads(line)) for line in kept]
    left = False
    if not args.page:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        plan = Plan(args.points, args.moments, args.held, args.damage, args.seed)
        started = time.monotonic()
        for one in trials(root, plan, {(t.operation, t.call, t.kind) for t in found}):
            found.append(one)
            if args.results:
                with args.results.open("a", encoding="utf-8") as f:
                    f.write(json.dumps(asdict(one)) + "\n")
            if one.problem:
                print(one, flush=True)
            if time.monotonic() - started > args.seconds:
                left = True
                break
    wrong = [one for one in found if one.problem]
    print(table(found))
    print("there may be more: call it again" if left else "")
    print(f"{len(found)} trials, {len(wrong)} with something lost, half-written or said without words")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
