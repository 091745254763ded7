"""What the fast mode keeps and loses against the exact one, on the same edits of the lab."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.tables import Table
from errata.analysis.differences import Difference, differences, grouped
from errata.analysis.frames import RunFrames, load_run
from errata.analysis.verdict import judge
from errata.report.methods_table import methods_table
from errata.studies.recipe import load_recipe
from errata.studies.run import resume, run

__all__ = ["fast_and_exact"]

_RECIPE = Path(__file__).parent.parent / "recipes" / "lab-methods.yaml"
_SHOWN = {
    "efficacy": "efficacy.success@now",
    "paraphrase": "paraphrase.success@now",
    "neighborhood": "neighborhood.success@now",
    "recalled": "efficacy.exact@retest",
    "unrelated": "unrelated.exact",
}
_BESIDE = ("tasks", "collapse")


def fast_and_exact(methods: Sequence[str], edits: int, folder: Path, clamp: float | None = None) -> Table:
    """Run `recipes/lab-methods.yaml` in both modes for each method; runs that are in the folder are kept or continued.

    Args:
        methods: names.
        edits: how many, one at a time.
        folder: for the runs.
        clamp: ‖δ‖/‖h₀‖ at most, in place of the lab's own, which δ does not reach there.
    """
    rows, measured = [], []
    for method in methods:
        runs = [_run(method, fast, edits, folder, clamp) for fast in (False, True)]
        labels = [f"{method}, {mode}" for mode in ("exact", "fast")]
        table = methods_table([(label, r, judge(r)) for label, r in zip(labels, runs, strict=True)])
        wanted = [table.columns.index(name) for name in (*_SHOWN, *_BESIDE)]
        rows += [[label, *(cells[i] for i in wanted)] for label, cells in zip(labels, table.texts, strict=True)]
        found = {d.metric: d for d in differences(grouped(list(zip(labels, runs, strict=True))))}
        tasks = [d for metric, d in found.items() if metric.endswith(".accuracy")]
        rows.append(["difference", *(_points([found[m]]) for m in _SHOWN.values()), _points(tasks), ""])
        apart = {m: [d.value, d.low, d.high, d.n] for m, d in found.items()}
        measured.append({"method": method, "differences": apart, "runs": table.as_json()})
    name = "fast-lab" if clamp is None else "fast-lab-bound"
    return Table(name, ["", *_SHOWN, *_BESIDE], rows, measured)


def _run(method: str, fast: bool, edits: int, folder: Path, clamp: float | None) -> RunFrames:
    bound = "" if clamp is None else f"-clamp-{clamp:g}"
    out = folder / f"fast-lab-{method}-{'fast' if fast else 'exact'}-{edits}{bound}"
    if (out / "run.json").exists():
        resume(out)
    else:
        chosen = [f"method.name={method}", f"method.fast={str(fast).lower()}", f"edits.n={edits}"]
        chosen += [] if clamp is None else [f"method.value.clamp_norm_factor={clamp:g}"]
        run(load_recipe(_RECIPE, chosen), out)
    return load_run(out)


def _points(parts: Sequence[Difference]) -> str:
    """Write differences in percentage points: of several, the one that lies furthest from 0."""
    worst = max(parts, key=lambda d: abs(d.value), default=None)
    if worst is None:
        return ""
    what = f" ({len(parts)} tasks)" if len(parts) > 1 else ""
    return f"{100 * worst.value:+.1f} ({100 * worst.low:+.1f} to {100 * worst.high:+.1f}){what}"
