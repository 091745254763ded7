"""Many runs on one machine: each in a process of its own, so that one that fails takes no other with it."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock, current_thread, main_thread
from typing import Literal

import yaml

from errata.errors import ConfigError, ErrataError
from errata.models import EditableModel, outline
from errata.studies.agreement import check_agreement
from errata.studies.recipe import Recipe
from errata.studies.store import RunStore

__all__ = ["Job", "Outcome", "begun", "run_all", "settled", "threads_each"]

_INTERRUPTED = "interrupted; called again, it goes on where it was"
_STOPS = {128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM}
"""Statuses of a process that was stopped: a terminal sends its interruption to every process itself."""
_KEPT_LINES = 200  # of what a process says, in case it fails


@dataclass(frozen=True)
class Job:
    """One run to make.

    Args:
        recipe: what.
        out: where.
        until: how many of its edits to make now; all of them when None.
    """

    recipe: Recipe
    out: Path
    until: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Args:
        job: the job.
        status: "done"; "kept" where the run was as far before; "failed".
        message: why it failed; a bug's whole traceback.
        seconds: how long it took.
    """

    job: Job
    status: Literal["done", "kept", "failed"]
    message: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.message == _INTERRUPTED:
            return f"{self.job.out}: {self.message}"
        if self.status == "failed":
            bug = self.message.startswith("Traceback")
            return f"{self.job.out}: failed: {self.message.rpartition(chr(10))[2] if bug else self.message}"
        return f"{self.job.out}: " + ("finished before" if self.status == "kept" else f"done in {self.seconds:.0f} s")


def run_all(
    jobs: Sequence[Job], *, processes: int = 1, tell: Callable[[str], None] = lambda message: None
) -> list[Outcome]:
    """Make all runs: those that are finished are kept, those begun are resumed, the others run.

    Each has a process of its own and an equal share of the threads. A run that fails stops no other. When this process
    is interrupted, its runs are too; called again, it goes on where they were.

    Args:
        jobs: the runs; no two into the same directory.
        processes: how many at a time.
        tell: hears the runs' progress and fates, from several threads but never twice at once.

    Returns:
        An outcome for each job, in their order.

    Raises:
        ConfigError: when two jobs name the same directory.
    """
    known = settled(jobs)
    told = _OneAtATime(tell)
    work = _Processes(threads_each(processes), told)
    number = count(1)

    def fate(job: Job, outcome: Outcome | None) -> Outcome:
        outcome = outcome or work.run(job)
        told(f"{next(number)}/{len(jobs)} {outcome}")
        return outcome

    with ThreadPoolExecutor(max_workers=max(1, processes)) as pool, _terminable():
        pending = [pool.submit(fate, job, outcome) for job, outcome in zip(jobs, known, strict=True)]
        try:
            return [future.result() for future in pending]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            work.stop()
            raise


def settled(jobs: Sequence[Job]) -> list[Outcome | None]:
    """Return the outcomes that are known beforehand: runs that are finished, and directories that hold another run.

    Raises:
        ConfigError: when two jobs name the same directory.
    """
    outs = [job.out.resolve() for job in jobs]
    for i, out in enumerate(outs):
        if out in outs[:i]:
            raise ConfigError(f"two runs are to be written to {jobs[i].out}. Give each a directory of its own.")
    outlines: dict[tuple[str, str], EditableModel] = {}
    return [_settled(job, outlines) if begun(job.out) else None for job in jobs]


def _settled(job: Job, outlines: dict[tuple[str, str], EditableModel]) -> Outcome | None:
    asked = (job.recipe.model.name, job.recipe.model.dtype)
    try:
        if asked not in outlines:
            outlines[asked] = outline(asked[0], dtype=asked[1])
        check_agreement(job.out, job.recipe, outlines[asked])
        store = RunStore(job.out)
        there = store.finished() or (job.until is not None and store.reached() >= job.until)
        return Outcome(job, "kept") if there else None
    except ErrataError as e:
        return Outcome(job, "failed", str(e))


def begun(out: Path) -> bool:
    """Say whether a directory holds a run."""
    return (out / "run.json").exists()


def threads_each(processes: int) -> int:
    """Return how many threads each of several processes should use: an equal share, at most OMP_NUM_THREADS."""
    share = max(1, (os.cpu_count() or 1) // max(1, processes))
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(limit)) if limit.isdigit() and int(limit) else share


@contextmanager
def _terminable() -> Iterator[None]:
    """Take the signal by which schedulers end a process as an interruption, where signals can be heard at all."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _OneAtATime:
    """Call a function from several threads, never twice at once."""

    def __init__(self, call: Callable[[str], None]) -> None:
        self._call = call
        self._lock = Lock()

    def __call__(self, message: str) -> None:
        with self._lock:
            self._call(message)


class _Processes:
    """Run jobs as `errata run` and `errata resume`, and stop those that are going on."""

    def __init__(self, threads: int, tell: Callable[[str], None]) -> None:
        # Idle threads that spin would take the cores from the other processes.
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        self._tell = tell
        self._going: set[subprocess.Popen[str]] = set()
        self._lock = Lock()
        self._stopped = False

    def run(self, job: Job) -> Outcome:
        """Make one run; wait for it."""
        started = time.monotonic()
        # The recipe goes through standard input: it is nowhere else on disk before run.json says it whole.
        what = ["resume", str(job.out)] if begun(job.out) else ["run", "/dev/stdin", "--out", str(job.out)]
        what += ["--until", str(job.until)] if job.until is not None else []
        with self._lock:
            if self._stopped:
                return Outcome(job, "failed", _INTERRUPTED)
            process = subprocess.Popen(
                [sys.executable, "-m", "errata", *what, "--json"],
                env=self._environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            self._going.add(process)
        said: deque[str] = deque(maxlen=_KEPT_LINES)
        assert process.stdin is not None
        assert process.stderr is not None
        with process:
            try:
                process.stdin.write(yaml.safe_dump(job.recipe.model_dump(mode="json")))
                process.stdin.close()
            except BrokenPipeError:
                pass  # it ended before it read; what it said tells why
            for line in process.stderr:
                said.append(line)
                if not line.startswith("error: "):  # told with the job's fate
                    self._tell(line.rstrip())
        self._going.discard(process)
        seconds = time.monotonic() - started
        if process.returncode == 0:
            return Outcome(job, "done", seconds=seconds)
        stopped = self._stopped or process.returncode in _STOPS
        reason = _INTERRUPTED if stopped else _reason("".join(said), process.returncode)
        return Outcome(job, "failed", reason, seconds)

    def stop(self) -> None:
        """End what is going on; every finished edit is recorded, at whatever instant a run is stopped."""
        with self._lock:
            self._stopped = True
            for process in [*self._going]:
                process.terminate()


def _reason(said: str, status: int) -> str:
    """Find in what a process said why it failed: its error message, or the traceback of a bug."""
    found = max(said.rfind("\nerror: "), said.rfind("\nTraceback "), 0 if said.startswith(("error: ", "Trace")) else -1)
    if found >= 0:
        return said[found:].strip().removeprefix("error: ")
    ended = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"{ended}: {said.strip().rpartition(chr(10))[2]}".removesuffix(": ")
