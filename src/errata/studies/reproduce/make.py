"""Make what a reproduction needs: trainings, then runs and screens; what is there is kept."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import torch

from errata.errors import ErrataError, RunError
from errata.files import write_aside
from errata.models import outline
from errata.studies.agreement import check_agreement
from errata.studies.engine import Job, begun, run_all, threads_each
from errata.studies.recipe import Recipe
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Training, Work
from errata.studies.screen import ScreenStore, screen
from errata.studies.store import RunStore
from errata.training.job import load_job

__all__ = ["finished", "make", "screened", "train"]


def make(
    work: Work,
    out: Path,
    *,
    processes: int = 1,
    until: int | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> Results:
    """Make everything that is listed, and return what there is.

    Called again it goes on where it was: finished runs are kept, begun ones resumed. A run that fails stops no other,
    and the claims that need it say that it is missing; so does a screen, or one of other settings.

    Args:
        work: runs, trainings and screens; `needed` narrows them to what some claims need.
        out: the directory below which they lie.
        processes: how many runs at a time.
        until: pause every run once so many edits are made; all of them when None.
        tell: hears what happens, a line each.

    Raises:
        RunError: when a training fails; no run that needs it is begun.
    """
    runs, screens = work.runs, work.screens
    for name, content in work.files.items():
        write_aside(out / name, content.encode())
    places = {name: out / "runs" / name for name in runs} | {name: out / "screens" / name for name in screens}
    missing = [recipe for name, recipe in runs.items() if not finished(places[name])]
    undone = {name: recipe for name, recipe in screens.items() if not screened(places[name], recipe)}
    needed = {c for recipe in (*missing, *undone.values()) if (c := recipe.method.settings.get("checkpoint"))}
    trainings = {n: t for n, t in work.trainings.items() if str(out / "trained" / n) in needed}
    train(trainings, out, processes, tell)
    outcomes = run_all([Job(r, places[name], until) for name, r in runs.items()], processes=processes, tell=tell)
    _screen([(recipe, places[name]) for name, recipe in undone.items()], processes, tell)
    done = {n: places[n] for n, outcome in zip(runs, outcomes, strict=True) if outcome.status != "failed"}
    there = {name: places[name] for name, recipe in screens.items() if screened(places[name], recipe)}
    return Results(done, there, asked=[*runs, *screens])


def finished(run: Path) -> bool:
    """Return whether a run is there, whole."""
    return begun(run) and RunStore(run).finished()


def screened(place: Path, recipe: Recipe) -> bool:
    """Return whether a screen is there with all its facts, and is the one that the recipe asks for."""
    store = ScreenStore(place)
    if not all(store.part(number).exists() for number in range((recipe.edits.n or 0) + 1)):
        return False
    try:
        check_agreement(place, recipe, outline(recipe.model.name, dtype=recipe.model.dtype), ScreenStore)
    except ErrataError:
        return False
    return True


def _screen(screens: Sequence[tuple[Recipe, Path]], processes: int, tell: Callable[[str], None]) -> None:
    if not screens:
        return
    threads = threads_each(processes)
    with ProcessPoolExecutor(max_workers=max(1, processes), mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(_one_screen, recipe, place, threads): place for recipe, place in screens}
        for future in as_completed(pending):
            try:
                future.result()
            except (ErrataError, BrokenProcessPool) as e:
                tell(f"{pending[future]}: failed: {e}")
            else:
                tell(f"{pending[future]}: every fact screened")


def _one_screen(recipe: Recipe, out: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    screen(recipe, out)


def _begun_alike(training: Training, place: Path) -> bool:
    """Return whether a directory holds this training, begun.

    Raises:
        RunError: when it holds another.
    """
    if not (place / "resume.safetensors").exists():
        return False
    job = load_job(place, training.method)
    begun, asked = (job.model, job.skip, tuple(job.settings)), (training.model, training.skip, training.settings)
    if begun != asked:
        raise RunError(
            f"{place} holds a training of {begun}, and {asked} is asked for. Remove it, or name another --out."
        )
    return True


def train(trainings: Mapping[str, Training], out: Path, processes: int, tell: Callable[[str], None]) -> None:
    """Make trainings as `errata train` does; those that are done or begun are resumed.

    Args:
        trainings: by the name of the directory below `trained/`.
        out: the directory below which they lie.
        processes: how many at a time.
        tell: hears what happens, a line each.

    Raises:
        RunError: when one fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads_each(processes)), "OMP_WAIT_POLICY": "PASSIVE"}

    def one(name: str) -> str:
        training, place = trainings[name], out / "trained" / name
        tell(f"training {training.method} for {training.model}: {place}")
        asked = ["--model", training.model, "--skip", str(training.skip)]
        asked += [word for setting in training.settings for word in ("-o", setting)]
        try:
            how = ["--resume"] if _begun_alike(training, place) else asked
        except ErrataError as e:
            return f"{name}: {e}"
        command = [sys.executable, "-m", "errata", "train", training.method, "--out", str(place), *how]
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        return "" if done.returncode == 0 else f"{name}: {done.stderr.strip().rpartition(chr(10))[2]}"

    with ThreadPoolExecutor(max_workers=max(1, processes)) as pool:
        if failed := [said for said in pool.map(one, trainings) if said]:
            raise RunError(f"{len(failed)} of {len(trainings)} trainings failed. {' '.join(failed)}")
