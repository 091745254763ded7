"""What edit 10,000 costs beside edit 10."""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import psutil
import torch

from benchmarks.shapes import Size, random_facts, random_model, text_file
from benchmarks.tables import Table, seconds, spread
from errata.editors.registry import editor_class, resolve_settings
from errata.editors.statistics import StatisticsStore
from errata.editors.update import Update
from errata.models import EditableModel
from errata.trajectory import DiskJournal, Trajectory

__all__ = ["keys_in_memory", "whole_edits"]

_QUICK: dict[str, Any] = {"contexts": {"lengths": ((2, 2),)}, "value": {"steps": 2}}
_OF_METHOD: dict[str, dict[str, Any]] = {
    "alphaedit": {"threshold": 0.02, "threshold_unit": "mean", "identity_weight": 10.0}
}
_WITH_C: dict[str, Any] = {"ridge": 1e-3, "covariance_weight": 100.0}


def whole_edits(size: Size, counts: Sequence[int], near: int, folder: Path) -> Table:
    """Make every edit up to the last count, with guard, journal on disk and weights.

    Those near each count are made and timed one at a time, the others in batches of a hundred.

    Args:
        size: of the model; small, so that what may grow is not hidden behind what does not.
        counts: ascending.
        near: how many edits are timed at each.
        folder: for text, statistics and the journal.
    """
    measured = []
    for method in ("alphaedit",):
        model, editor = _prepared(size, method, folder)
        facts = random_facts(size, counts[-1])
        record: dict[str, Any] = {"method": method, "seconds": {}, "memory": {}}
        with tempfile.TemporaryDirectory(dir=folder) as run:
            trajectory = Trajectory(model, editor, journal=DiskJournal(Path(run)))
            trajectory.propose(facts[:1])
            for n in counts:
                while trajectory.step < n - near:
                    trajectory.advance(facts[trajectory.step : min(trajectory.step + 100, n - near)])
                singles = range(trajectory.step, n)
                took = [seconds(lambda t=trajectory, f=facts[i]: t.advance([f]))[0] for i in singles]
                record["seconds"][n] = statistics.mean(took)
                record["memory"][n] = _held()
        measured.append(record)
    return _table("growth-edits", measured, counts)


def keys_in_memory(width: int, counts: Sequence[int], near: int, folder: Path) -> Table:
    """Fill a method's memory with random keys up to each count, and time the edits made there.

    Args:
        width: d of the residual stream; keys have 4 d.
        counts: ascending.
        near: how many edits are timed before each, as far as there are so many.
        folder: for text and statistics.
    """
    size = Size(f"two layers of {width}", 2, width, max(1, width // 64), 500)
    measured = []
    for method in ("memit-history",):
        model, editor = _prepared(size, method, folder, layers=(0,))
        facts = iter(random_facts(size, near * len(counts) + 2))
        keys = editor.propose(model, [next(facts)]).memory
        generator = torch.Generator().manual_seed(0)
        held = 0
        record: dict[str, Any] = {"method": method, "seconds": {}, "memory": {}}
        for n in counts:
            while held < n - near:
                more = min(500, n - near - held)
                random = {
                    path: torch.randn(k.shape[0], more, generator=generator).to(k) * k.norm() / k.shape[0] ** 0.5
                    for path, k in keys.items()
                }
                editor.remember(Update({}, memory=random))
                held += more
            editor.propose(model, [next(facts)]) if n == counts[0] else None
            took = []
            for _ in range(min(near, n - held)):
                fact = next(facts)
                took.append(seconds(lambda e=editor, m=model, f=fact: e.remember(e.propose(m, [f])))[0])
                held += 1
            record["seconds"][n] = statistics.mean(took)
            record["memory"][n] = _held()
        measured.append(record)
    return _table("growth-keys", measured, counts)


def _prepared(size: Size, method: str, folder: Path, **chosen: Any) -> tuple[EditableModel, Any]:
    model = random_model(size)
    source = {"source": str(text_file(folder, size, 1024))}
    settings = {**_QUICK, **_OF_METHOD.get(method, _WITH_C), "statistics": source, **chosen}
    editor = editor_class(method)(resolve_settings(method, model, settings))
    editor.prepare(model, StatisticsStore(folder), Random(0))
    return model, editor


def _held() -> float:
    """Return the memory that the process holds now, in MB; its peak may be of something larger that came before."""
    return float(psutil.Process().memory_info().rss) / 2**20


def _table(name: str, measured: list[dict[str, Any]], counts: Sequence[int]) -> Table:
    rows = []
    for m in measured:
        last, reference = m["seconds"][counts[-1]], m["seconds"][counts[1]]
        grown = m["memory"][counts[-1]] - m["memory"][counts[1]]
        rows.append([m["method"], *(spread([m["seconds"][n]]) for n in counts), f"{last / reference:.2f}"])
        rows[-1].append(f"{grown:+.0f} MB")
    ends = f"edit {counts[-1]:,} / edit {counts[1]:,}"
    return Table(name, ["method", *(f"edit {n:,}" for n in counts), ends, "memory since"], rows, measured)
