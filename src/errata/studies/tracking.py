"""Tell an experiment tracker how a run goes: trackio or wandb, through one adapter; by default nobody is told."""

import hashlib
import importlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from errata.errors import MissingExtraError
from errata.probes.rows import Row
from errata.studies.progress import Progress
from errata.trajectory import Entry

__all__ = ["PROJECT", "Tracked", "figures", "tracked"]

PROJECT = "errata"
"""The trackers' project that runs are filed under."""
_SINGLE = (".item", ".gold", ".given", ".nll", ".tokens")
"""How the metrics of single items and lines end."""

_BEGIN: dict[str, Callable[[ModuleType, str, str, Mapping[str, Any]], Any]] = {
    # A run that is resumed goes on under its name, or its id where names may repeat.
    "trackio": lambda module, name, key, config: module.init(
        project=PROJECT, name=name, config=dict(config), resume="allow", embed=False
    ),
    "wandb": lambda module, name, key, config: module.init(
        project=PROJECT, name=name, id=key, config=dict(config), resume="allow"
    ),
}
_FINISH: dict[str, Callable[[ModuleType, bool], None]] = {
    "trackio": lambda module, failed: module.finish(),
    "wandb": lambda module, failed: module.finish(exit_code=int(failed)),
}


class Tracked(Progress):
    """Pass progress on, and log every step's figures.

    Args:
        progress: who is told besides.
        module: trackio or wandb, with a run begun.
    """

    def __init__(self, progress: Progress, module: ModuleType) -> None:
        self._progress = progress
        self._module = module

    def tell(self, message: str) -> None:
        """Pass a remark on."""
        self._progress.tell(message)

    def doing(self, what: str, done: int, total: int) -> None:
        """Pass on how far something is."""
        self._progress.doing(what, done, total)

    def begin(self, step: int, total: int) -> None:
        """Pass on that editing starts."""
        self._progress.begin(step, total)

    def measured(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """Log the unedited model's figures."""
        self._progress.measured(rows)
        self._module.log(figures(0, rows), step=0)

    def edited(self, entries: Sequence[Entry], rows: Mapping[str, Sequence[Row]], seconds: float) -> None:
        """Log what a batch did and what was measured after it."""
        self._progress.edited(entries, rows, seconds)
        first, step = entries[0], entries[-1].step
        edit = {
            "edit/seconds": first.seconds / len(entries),
            "edit/relative": first.relative,
            "edit/applied": float(first.applied),
        }
        self._module.log({**edit, **figures(step, rows)}, step=step)

    def end(self) -> None:
        """Pass on that the run is over."""
        self._progress.end()


def figures(step: int, rows: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    """Return the mean of every metric at a step over what has a value, and under `missing/` how many rows have none.

    Rows of single texts, items and lines are left out.

    Args:
        step: how many edits have been made.
        rows: of every probe, of this step and maybe earlier ones.
    """
    values: dict[str, list[float]] = {}
    for row in (row for found in rows.values() for row in found if row.step == step):
        if not row.metric.startswith("text@") and not row.metric.endswith(_SINGLE):
            values.setdefault(row.metric, []).append(row.value)
    found: dict[str, float] = {}
    for metric, all_ in sorted(values.items()):
        known = [value for value in all_ if not math.isnan(value)]
        found[metric] = sum(known) / len(known) if known else math.nan
        if len(known) < len(all_):
            found[f"missing/{metric}"] = float(len(all_) - len(known))
    return found


@contextmanager
def tracked(tracker: str, config: Mapping[str, Any], out: Path, progress: Progress) -> Iterator[Progress]:
    """Track what happens inside the block; the tracker's run is finished however the block ends.

    Args:
        tracker: "none", "trackio" or "wandb".
        config: the resolved recipe.
        out: the run directory, which tells runs of one name apart.
        progress: who is told besides.

    Raises:
        MissingExtraError: when the tracker is not installed.
    """
    if tracker == "none":
        yield progress
        return
    try:
        module = importlib.import_module(tracker)
    except ImportError as e:
        raise MissingExtraError(f"run.tracker: {tracker}", "track") from e
    key = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12]
    # Trackers greet on standard output, which belongs to results.
    with redirect_stdout(sys.stderr):
        _BEGIN[tracker](module, str(config["run"]["name"]), key, config)
    failed = True
    try:
        yield Tracked(progress, module)
        failed = False
    finally:
        with redirect_stdout(sys.stderr):
            _FINISH[tracker](module, failed)
