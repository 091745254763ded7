"""Runs and evaluations on a Ray cluster: actors that keep a base model, one run or one evaluation a task."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from errata.distributed.resident import Resident
from errata.errors import ConfigError, MissingExtraError
from errata.studies.edited import recorded_recipe
from errata.studies.engine import Job, Outcome, settled
from errata.studies.evaluate import Evaluation
from errata.studies.recipe import ModelSection
from errata.studies.store import RunStore

__all__ = ["Lost", "Places", "evaluate_on_ray", "run_all_on_ray", "spread"]


@dataclass(frozen=True)
class Places:
    """What a cluster lends.

    Args:
        actors: how many work at a time; as many as find room when None.
        cpus: for each actor, which has as many threads.
        gpus: for each actor; 0.25 puts four on one GPU, whose memory must hold four models.
        retries: how often a task is tried again when its worker or its machine is lost.
    """

    actors: int | None = None
    cpus: int = 1
    gpus: float = 0.0
    retries: int = 3


@dataclass(frozen=True)
class Lost:
    """What stands for the result of a task whose workers were lost more often than it may be tried again."""

    reason: str


def run_all_on_ray(
    jobs: Sequence[Job], *, places: Places, tell: Callable[[str], None] = lambda message: None
) -> list[Outcome]:
    """Make all runs on a Ray cluster, as `errata.studies.engine.run_all` makes them here, with the same results.

    Run directories must lie where every machine of the cluster sees them. A run whose worker is lost goes on elsewhere
    from its journal.

    Args:
        jobs: the runs; no two into the same directory.
        places: what the cluster lends.
        tell: hears of every run's fate.

    Returns:
        An outcome for each job, in their order.

    Raises:
        ConfigError: when two jobs name the same directory, or the cluster has too little for one run.
        MissingExtraError: when Ray is not installed.
    """
    outcomes = settled(jobs)
    for outcome in filter(None, outcomes):
        tell(str(outcome))
    missing = [i for i, outcome in enumerate(outcomes) if outcome is None]
    tasks = [(jobs[i].recipe.model, partial(_run, jobs[i])) for i in missing]
    for done, (position, result) in enumerate(spread(tasks, places), 1):
        i = missing[position]
        outcomes[i] = Outcome(jobs[i], "failed", result.reason) if isinstance(result, Lost) else result
        tell(f"{done}/{len(tasks)} {outcomes[i]}")
    return [outcome for outcome in outcomes if outcome is not None]


def _run(job: Job, resident: Resident) -> Outcome:
    return resident.run(job)


def evaluate_on_ray(asked: Sequence[Evaluation], *, places: Places) -> list[str]:
    """Measure past steps of runs on a Ray cluster, each step a task of its own.

    Args:
        asked: runs, probes and steps.
        places: what the cluster lends.

    Returns:
        For each, why it failed; empty where it did not.
    """
    single = [(i, replace(whole, steps=(step,))) for i, whole in enumerate(asked) for step in whole.steps]
    tasks = [(recorded_recipe(RunStore(one.run)).model, partial(_evaluate, one)) for _, one in single]
    reasons = [""] * len(asked)
    for position, result in spread(tasks, places):
        i = single[position][0]
        reasons[i] = reasons[i] or (result.reason if isinstance(result, Lost) else result)
    return reasons


def _evaluate(one: Evaluation, resident: Resident) -> str:
    return resident.evaluate(one)


def spread(
    tasks: Sequence[tuple[ModelSection, Callable[[Resident], Any]]], places: Places
) -> Iterator[tuple[int, Any]]:
    """Give tasks to model-resident actors, and yield each one's number and result as they end.

    An actor that is free takes a task of the model that it holds, where there is one.

    Args:
        tasks: the model that each needs, and what it does with the actor's resident.
        places: what the cluster lends.
    """
    if not tasks:
        return
    ray = _ray()
    with _connected(ray):
        waiting = sorted(range(len(tasks)), key=lambda i: tasks[i][0].model_dump_json())
        remote = ray.remote(
            num_cpus=places.cpus, num_gpus=places.gpus, max_restarts=-1, max_task_retries=places.retries
        )(_Actor)
        busy: dict[Any, tuple[Any, int]] = {}

        def give(actor: Any, held: ModelSection | None = None) -> None:
            if not waiting:
                ray.kill(actor)  # its place may be what another actor waits for
                return
            i = next((i for i in waiting if tasks[i][0] == held), waiting[0])
            waiting.remove(i)
            busy[actor.do.remote(tasks[i][1])] = (actor, i)

        for _ in range(min(len(tasks), _room(ray, places))):
            give(remote.remote(Path.cwd()))
        while busy:
            reference = ray.wait(list(busy), num_returns=1)[0][0]
            actor, i = busy.pop(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayError as e:
                result = Lost(f"lost with its worker, {places.retries + 1} times: {e}")
            give(actor, tasks[i][0])
            yield i, result


class _Actor:
    """One worker process of the cluster, with its resident model."""

    def __init__(self, folder: Path) -> None:
        os.chdir(folder)  # a recipe's relative paths are those of whoever asks
        self._resident = Resident()

    def do(self, task: Callable[[Resident], Any]) -> Any:
        """Do one task."""
        return task(self._resident)


def _ray() -> Any:
    try:
        import ray
    except ImportError as e:
        raise MissingExtraError("--engine ray", "ray") from e
    return ray


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names, or start one on this machine; leave alone one that is joined already."""
    if ray.is_initialized():
        yield
        return
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _room(ray: Any, places: Places) -> int:
    """Return how many actors the cluster has room for, up to those asked for."""
    there = ray.cluster_resources()
    needs = {kind: amount for kind, amount in (("CPU", places.cpus), ("GPU", places.gpus)) if amount}
    room = min((int(there.get(kind, 0) / amount + 1e-9) for kind, amount in needs.items()), default=1)
    if room < 1:
        has = ", ".join(f"{there.get(kind, 0):g} {kind}" for kind in needs)
        wants = ", ".join(f"{amount:g} {kind}" for kind, amount in needs.items())
        raise ConfigError(f"the cluster has {has}, but one run asks for {wants}. Ask for less, or add a machine.")
    return room if places.actors is None else min(room, places.actors)
