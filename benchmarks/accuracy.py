"""How far the solves of ten thousand edits are from solving anew, and what each costs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain import dense_solve
from benchmarks.tables import Table, distance, seconds
from errata.editors.history import PastKeys

__all__ = ["long_runs"]

_DECAY = -2.0  # the i-th eigenvalue of the keys' covariance is i^-2: at 3,072 rows a condition number of 9e6
_SYSTEMS = {"memit-history: λC, λ = 20,000": (20_000.0, True), "alphaedit: λI, λ = 10": (10.0, False)}


def long_runs(d: int, counts: Sequence[int], near: int, every: int) -> Table:
    """Take up one random key an edit, and compare solutions with those of a system that is summed and solved anew.

    Args:
        d: the length of a key.
        counts: ascending; the error of the edits just before each is shown apart.
        near: how many edits those are; of them the first, the middle one and the last are compared.
        every: how often solutions are compared besides.
    """
    measured = [_long_run(d, name, counts, near, every) for name in _SYSTEMS]
    rows = [
        [
            m["method"],
            *(f"{max(m['errors'][n]):.0e}" for n in counts),
            f"{m['worst']:.0e} of {m['compared']}",
            str(m["factorizations"]),
        ]
        for m in measured
    ]
    heads = [f"edit {n:,}" for n in counts]
    return Table("accuracy", [f"d = {d:,}", *heads, "largest, of those compared", "factorizations"], rows, measured)


def _long_run(d: int, name: str, counts: Sequence[int], near: int, every: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(d)
    weight, with_covariance = _SYSTEMS[name]
    values = torch.arange(1, d + 1, dtype=torch.float64) ** _DECAY * d
    turn = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))[0]
    spread_out = turn * values.sqrt()
    begun = weight * (spread_out @ spread_out.T if with_covariance else torch.eye(d, dtype=torch.float64))
    past, summed, waiting = PastKeys(begun.clone, name), begun.clone(), []
    record: dict[str, Any] = {"method": name, "d": d, "errors": {n: [] for n in counts}, "seconds": {}}
    record |= {"worst": 0.0, "compared": 0, "mean": 0.0}
    for edit in range(1, counts[-1] + 1):
        K = spread_out @ torch.randn(d, 1, dtype=torch.float64, generator=generator)
        took, found = seconds(lambda past=past, K=K: _edit(past, K))
        record["mean"] += took / counts[-1]
        count = next(n for n in counts if edit <= n)
        if edit > count - near:
            record["seconds"].setdefault(count, []).append(took)
        if edit % every == 0 or edit in (count - near + 1, count - near // 2, count):
            summed.addmm_(old := torch.cat([summed[:, :0], *waiting], 1), old.T)
            waiting = []
            error = distance(found, dense_solve(summed + K @ K.T, K))
            if edit > count - near:
                record["errors"][count].append(error)
            record["worst"], record["compared"] = max(record["worst"], error), record["compared"] + 1
        waiting.append(K)
    return {**record, "factorizations": past.factorizations}


def _edit(past: PastKeys, K: Tensor) -> Tensor:
    solution = past.solve_with(K)
    past.add(K)
    return solution
