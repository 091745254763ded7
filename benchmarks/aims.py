"""What was aimed at, beside what the tables of the page say was reached."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.tables import Table

__all__ = ["aims"]

_Records = Sequence[Mapping[str, Any]]
_SMALL = "edits-gpt2-small"


def aims(measured: Mapping[str, _Records]) -> Table:
    """Compare what has been measured with what was aimed at; what has not been measured says so.

    Args:
        measured: the figures of every table, by its name.
    """
    rows = [
        [what, aim, "; ".join(reached(measured[name])) if name in measured else "not measured"]
        for name, what, aim, reached in _AIMS
    ]
    return Table("aims", ["against the plain implementation", "aim", "reached"], rows, [])


def _factors(records: _Records, methods: Sequence[str] = (), of: str = "ours") -> list[str]:
    wanted = [r for r in records if not methods or r["method"] in methods]
    ratios = [(r["method"], statistics.median(r["plain"]) / statistics.median(r[of])) for r in wanted]
    return [f"{name} {ratio:.1f} ×" for name, ratio in ratios]


def _methods(*names: str, of: str = "ours") -> Callable[[_Records], list[str]]:
    return lambda records: _factors(records, names, of)


def _solves(records: _Records) -> list[str]:
    return [
        f"d = {r['d']:,}: {statistics.median(r['plain']) / statistics.median(r['ours']):.0f} ×"
        for r in records
        if r["n"] == 1
    ]


def _scores(records: _Records) -> list[str]:
    ratios = [(r["what"], statistics.median(r["plain"]) / statistics.median(r["ours"])) for r in records]
    return [f"{what}: {ratio:.1f} ×" for what, ratio in ratios]


def _growth(records: _Records) -> list[str]:
    found = []
    for r in records:
        counts = sorted(map(int, r["seconds"]))
        seconds = {int(n): value for n, value in r["seconds"].items()}
        found.append(f"{r['method']} {seconds[counts[-1]] / seconds[counts[1]]:.2f}")
    return found


def _guarded(records: _Records) -> list[str]:
    return [f"{r['method']} {statistics.median(r['guarded']) / statistics.median(r['alone']):.2f}" for r in records]


_AIMS: tuple[tuple[str, str, str, Callable[[_Records], list[str]]], ...] = (
    (_SMALL, "one at a time, five layers", "4 ×", _methods("memit", "alphaedit", "emmet")),
    (_SMALL, "one at a time, one layer, 21 prompts", "3 ×", _methods("rome", "r-rome")),
    ("batches-gpt2-small", "a batch of 100", "4 ×", _factors),
    ("solve", "solve for one key, d = 3,072 and 6,400", "25 ×, 100 ×", _solves),
    ("probes", "asking again", "4 ×", _scores),
    (_SMALL, "fast mode, random weights", "10 ×", _methods("memit", "alphaedit", of="fast")),
    ("growth-edits", "edit 10,000 over edit 100, whole edits", "1.1", _growth),
    ("growth-keys", "the same, keys of 3,072", "1.1", _growth),
    ("memory", "peak of an edit over weights and statistics", "1.3", lambda rs: [f"{r['ratio']:.2f}" for r in rs]),
    ("accuracy", "error against a fresh solve, 10,000 edits", "1e-6", lambda rs: [f"{r['worst']:.0e}" for r in rs]),
    ("guard-gpt2-small", "an edit under the guard over one without", "1.2", _guarded),
    ("probing", "probing over editing, 1,000 edits", "1", lambda rs: [f"{rs[-1]['probing'] / rs[-1]['editing']:.2f}"]),
)
