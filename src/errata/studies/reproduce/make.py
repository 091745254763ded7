"""Make what a reproduction needs: trainings, then runs and screens; what is there is kept."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

from errata.errors import RunError
from errata.studies.engine import Job, begun, run_all, threads_each
from errata.studies.recipe import Recipe
from errata.studies.reproduce.claims import Claim
from errata.studies.reproduce.results import Results
from errata.studies.reproduce.work import Training, Work, matching
from errata.studies.screen import ScreenStore, screen
from errata.studies.store import RunStore

__all__ = ["finished", "make"]


def make(
    work: Work,
    claims: Sequence[Claim],
    out: Path,
    *,
    processes: int = 1,
    tell: Callable[[str], None] = lambda message: None,
) -> Results:
    """Make everything that some claims need, and return what there is.

    Called again it goes on where it was: finished runs are kept, begun ones resumed. A run that fails stops no other,
    and the claims that need it say that it is missing.

    Args:
        work: the runs, trainings and screens of the reproduction.
        claims: whose needs are met.
        out: the reproduction's directory.
        processes: how many runs at a time.
        tell: hears what happens, a line each.

    Raises:
        RunError: when a training fails; no run that needs it is begun.
    """
    runs = {name: work.runs[name] for name in matching(work.runs, claims)}
    screens = {name: work.screens[name] for name in matching(work.screens, claims)}
    places = {name: out / "runs" / name for name in runs} | {name: out / "screens" / name for name in screens}
    missing = [recipe for name, recipe in runs.items() if not finished(places[name])]
    undone = {name: recipe for name, recipe in screens.items() if not screened(places[name], recipe)}
    needed = {c for recipe in (*missing, *undone.values()) if (c := recipe.method.settings.get("checkpoint"))}
    trainings = {n: t for n, t in work.trainings.items() if str(out / "trained" / n) in needed}
    _train(trainings, out, processes, tell)
    outcomes = run_all([Job(r, places[name]) for name, r in runs.items()], processes=processes, tell=tell)
    _screen([(recipe, places[name]) for name, recipe in undone.items()], processes, tell)
    done = {n: places[n] for n, outcome in zip(runs, outcomes, strict=True) if outcome.status != "failed"}
    return Results(done, {name: places[name] for name in screens})


def finished(run: Path) -> bool:
    """Return whether a run is there, whole."""
    return begun(run) and RunStore(run).finished()


def screened(place: Path, recipe: Recipe) -> bool:
    """Return whether a screen is there with all its facts."""
    store = ScreenStore(place)
    return all(store.part(number).exists() for number in range((recipe.edits.n or 0) + 1))


def _screen(screens: Sequence[tuple[Recipe, Path]], processes: int, tell: Callable[[str], None]) -> None:
    if not screens:
        return
    threads = threads_each(processes)
    with ProcessPoolExecutor(max_workers=max(1, processes), mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(_one_screen, recipe, place, threads): place for recipe, place in screens}
        for future in as_completed(pending):
            future.result()
            tell(f"{pending[future]}: every fact screened")


def _one_screen(recipe: Recipe, out: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    screen(recipe, out)


def _train(trainings: Mapping[str, Training], out: Path, processes: int, tell: Callable[[str], None]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads_each(processes)), "OMP_WAIT_POLICY": "PASSIVE"}

    def one(name: str) -> str:
        training, place = trainings[name], out / "trained" / name
        tell(f"training {training.method} for {training.model}: {place}")
        asked = ["--model", training.model, "--skip", str(training.skip)]
        asked += [word for setting in training.settings for word in ("-o", setting)]
        how = ["--resume"] if (place / "resume.safetensors").exists() else asked
        command = [sys.executable, "-m", "errata", "train", training.method, "--out", str(place), *how]
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        return "" if done.returncode == 0 else f"{name}: {done.stderr.strip().rpartition(chr(10))[2]}"

    with ThreadPoolExecutor(max_workers=max(1, processes)) as pool:
        if failed := [said for said in pool.map(one, trainings) if said]:
            raise RunError(f"{len(failed)} of {len(trainings)} trainings failed. {' '.join(failed)}")
