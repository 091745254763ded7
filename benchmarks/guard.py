"""What the guard adds to an edit: the same edits with and without a watch over a canary, in turn."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.edits import Bench, Subject
from benchmarks.shapes import Size
from benchmarks.tables import Table, distance, seconds, spread
from errata.probes.canary import LineCanary
from errata.trajectory import Limits, Trajectory, Watch

__all__ = ["watched"]

_LINES, _WORDS = 32, 6  # the guard's default, and what a line of the canary that comes with Errata has on average
_LOOSE = Limits(1e9, 0.0, 1e9, 1e9, horizon=1, learnt=0.0, condition=1e300, damp=())
"""What the guard decides on random weights says nothing; what looking costs is what is timed."""


def watched(subject: Subject, methods: Sequence[str], folder: Path) -> Table:
    """Edit facts one after another, each once alone and once under a watch that lets everything pass.

    Args:
        subject: model and facts.
        methods: names.
        folder: for text and statistics.
    """
    measured = []
    warm, *facts = subject.facts
    for method in methods:
        pair = [Bench.random(subject, method, folder) for _ in range(2)]
        canary = LineCanary(pair[1].model, _lines(subject.size))
        alone = Trajectory(pair[0].model, pair[0].editor)
        guarded = Trajectory(pair[1].model, pair[1].editor, judge=Watch(_LOOSE, canary, len(facts)))
        took: dict[str, list[float]] = {"alone": [], "guarded": []}
        turns = [("alone", alone), ("guarded", guarded)]
        for fact in [warm, *facts]:
            for name, trajectory in turns:
                spent, (entry,) = seconds(lambda t=trajectory, f=fact: t.advance([f]))
                assert entry.applied
                if fact is not warm:
                    took[name].append(spent)
            turns.reverse()  # neither always comes second
        paths = [path for path in alone.masters() if path in guarded.masters()]
        apart = max(distance(alone.model.weight(path), guarded.model.weight(path)) for path in paths)
        measured.append({"method": method, **took, "apart": apart})
    rows = [[r["method"], spread(r["alone"]), spread(r["guarded"]), f"{_more(r):+.0%}"] for r in measured]
    return Table(f"guard-{subject.size.name}", ["method", "alone", "guarded", "more"], rows, measured)


def _more(record: dict[str, Any]) -> float:
    return statistics.median(record["guarded"]) / statistics.median(record["alone"]) - 1


def _lines(size: Size) -> list[str]:
    rng = Random(2)
    return [" ".join(f"w{rng.randrange(size.vocabulary // 2)}" for _ in range(_WORDS)) for _ in range(_LINES)]
