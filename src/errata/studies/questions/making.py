"""Take runs as far as they are asked to go, or to where a figure has fallen; what is there is kept."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from errata.analysis.curves import curve
from errata.analysis.falls import fall_step
from errata.analysis.frames import load_run
from errata.distributed.resident import Resident
from errata.errors import RunError
from errata.probes.rows import Row
from errata.studies.engine import Job, Outcome, begun, settled, threads_each
from errata.studies.reproduce.make import make, train
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Work
from errata.studies.run import Enough
from errata.studies.store import RunStore

__all__ = ["Fall", "fell", "make_until"]


@dataclass(frozen=True)
class Fall:
    """What ends a run: that the mean of a metric has lost a share of its unedited value."""

    metric: str
    share: float


def make_until(
    fall: Fall, work: Work, out: Path, *, processes: int = 1, until: int | None = None, tell: Callable[[str], None]
) -> Results:
    """Take every run as far as it is asked to go, or to its fall.

    Runs of methods that need a training come last, so that a training that fails keeps no other from being made.

    Args:
        fall: what ends a run.
        work: the runs.
        out: the directory below which they lie.
        processes: how many runs at a time.
        until: edits of each run at most; all when None.
        tell: hears what happens, a line each.

    Raises:
        RunError: when a training fails, or a process that makes runs ends without a word.
    """
    make(replace(work, runs={}, trainings={}), out, processes=processes, tell=tell)  # the files alone
    jobs = [Job(recipe, out / "runs" / name, until) for name, recipe in work.runs.items()]
    outcomes = settled(jobs)
    for outcome in outcomes:
        if outcome is not None and outcome.status == "failed":
            tell(str(outcome))
    left = [job for job, outcome in zip(jobs, outcomes, strict=True) if outcome is None and not fell(fall, job.out)]
    needs = {id(job): Path(str(job.recipe.method.settings.get("checkpoint", ""))).name for job in left}
    _go([job for job in left if not needs[id(job)]], fall, processes, tell)
    last = [job for job in left if needs[id(job)]]
    train({name: work.trainings[name] for name in dict.fromkeys(needs[id(job)] for job in last)}, out, processes, tell)
    _go(last, fall, processes, tell)
    failed = {job.out for job, outcome in zip(jobs, outcomes, strict=True) if outcome and outcome.status == "failed"}
    names = {name: job for name, job in zip(work.runs, jobs, strict=True) if job.out not in failed}
    there = {name: job.out for name, job in names.items() if _there(job, fall)}
    return Results(there, asked=list(work.runs))


def _go(jobs: Sequence[Job], fall: Fall, processes: int, tell: Callable[[str], None]) -> None:
    if processes == 1:
        resident = Resident()
        for number, job in enumerate(jobs, 1):
            tell(f"{number}/{len(jobs)} {resident.run(job, _until(job.out, fall))}")
        return
    threads = threads_each(processes)
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_begin, initargs=(threads,)
    ) as pool:
        try:
            pending = [pool.submit(_one, job, fall) for job in jobs]
            for number, future in enumerate(as_completed(pending), 1):
                tell(f"{number}/{len(jobs)} {future.result()}")
        except BrokenProcessPool as e:
            raise RunError(
                f"one of {processes} processes that make runs has ended without a word, most likely for want of "
                "memory. Every finished edit is recorded: call this again, with fewer --processes."
            ) from e
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_RESIDENT: list[Resident] = []  # of a worker process: its one base model


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    _RESIDENT.append(Resident())


def _one(job: Job, fall: Fall) -> Outcome:
    return _RESIDENT[0].run(job, _until(job.out, fall))


def _there(job: Job, fall: Fall) -> bool:
    """Say whether a run has come to where it was asked to go, or to its fall."""
    if not begun(job.out):
        return False
    store = RunStore(job.out)
    return store.finished() or (job.until is not None and store.reached() >= job.until) or fell(fall, job.out)


def fell(fall: Fall, run: Path) -> bool:
    """Say whether a run has come to its fall.

    Args:
        fall: what ends a run.
        run: its directory.
    """
    return begun(run) and RunStore(run).reached() > 0 and fall_step(load_run(run), fall.metric, fall.share)[1]


def _until(run: Path, fall: Fall) -> Enough:
    """Return what ends a run at its first fall: nothing after it is asked for."""
    before: list[float] = []

    def enough(rows: Sequence[Row]) -> bool:
        found = [0.0 if math.isnan(row.value) else row.value for row in rows if row.metric == fall.metric]
        if not found:
            return False
        if not before:
            # A run that goes on has its first rows on disk.
            before.append(sum(found) / len(found) if rows[0].step == 0 else curve(load_run(run), fall.metric).values[0])
        return rows[0].step > 0 and sum(found) / len(found) <= (1 - fall.share) * before[0] + 1e-12

    return enough
