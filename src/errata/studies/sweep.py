"""Sweeps: the runs of a grid, an index of them, and one table of what they came to."""

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from errata.analysis.frames import load_run
from errata.analysis.verdict import judge
from errata.errors import ErrataError, RunError
from errata.files import write_aside
from errata.report.methods_table import MethodsTable, methods_table
from errata.studies.engine import Job, Outcome, begun, run_all
from errata.studies.grid import Cell
from errata.studies.store import RunStore

__all__ = ["Engine", "Summary", "sweep"]

Engine = Callable[[Sequence[Job]], Sequence[Outcome]]
"""What makes runs and says what became of each."""


@dataclass(frozen=True)
class Summary:
    """A sweep, summed up: a row a run, in the order of the grid.

    Args:
        directories: of the runs.
        axes: what tells each from the others.
        statuses: "finished", "begun", "not begun" or "failed".
        messages: why a run failed, or why its rows say nothing; empty otherwise.
        figures: of the finished runs, by directory: efficacy, what is kept, the step of the collapse, half-life, costs.
    """

    directories: tuple[str, ...]
    axes: tuple[Mapping[str, Any], ...]
    statuses: tuple[str, ...]
    messages: tuple[str, ...]
    figures: MethodsTable

    def as_json(self) -> list[dict[str, Any]]:
        """Return one object a run, with null for what was not measured."""
        figures = self.figures.as_json()
        columns = zip(self.directories, self.axes, self.statuses, self.messages, strict=True)
        return [
            {"run": run, "axes": dict(axes), "status": status, "message": message, "figures": figures.get(run)}
            for run, axes, status, message in columns
        ]

    def frame(self) -> pl.DataFrame:
        """Return one line a run: the axes as text, the status, every figure as a number."""
        figures = self.figures.as_json()
        lines = [
            {
                "run": run,
                **{key: value if isinstance(value, str) else json.dumps(value) for key, value in axes.items()},
                "status": status,
                **{name: figures.get(run, {}).get(name) for name in self.figures.columns},
            }
            for run, axes, status in zip(self.directories, self.axes, self.statuses, strict=True)
        ]
        return pl.DataFrame(lines, schema_overrides=dict.fromkeys(self.figures.columns, pl.Float64))

    def markdown(self) -> str:
        """Return the table in Markdown: the axes, the status, and every figure with its interval."""
        keys = list(self.axes[0]) if self.axes else []
        texts = dict(zip(self.figures.runs, self.figures.texts, strict=True))
        head = [*(key.rpartition(".")[2] if key != "method.name" else "method" for key in keys), "status"]
        rows = [
            [
                *(value if isinstance(value, str) else json.dumps(value) for value in axes.values()),
                status,
                *texts.get(run, [""] * len(self.figures.columns)),
            ]
            for run, axes, status in zip(self.directories, self.axes, self.statuses, strict=True)
        ]
        lines = [[*head, *self.figures.columns], ["---"] * (len(head) + len(self.figures.columns)), *rows]
        return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def sweep(whole: Sequence[Cell], mine: Sequence[Cell], out: Path, engine: Engine = run_all, seed: int = 0) -> Summary:
    """Make the runs of a shard, then sum up all runs of the sweep's index as they stand by now.

    Shards may run at the same time, on any machines that share `out`. The index `sweep.json` is written before any run;
    `summary.csv` and `summary.json` after the shard's last, and what the last shard of all writes holds every run. Why
    a run failed lies in a file beside its directory, so that any shard's summary shows it, and goes when it succeeds.

    Args:
        whole: all runs of the grid.
        mine: those of this shard.
        out: the sweep's directory.
        engine: makes the runs.
        seed: of the bootstraps.

    Raises:
        RunError: when `out` holds another sweep.
    """
    with _alone(out):
        _write_index(whole, out)
    outcomes = engine([Job(cell.recipe, out / cell.directory) for cell in mine])
    for outcome in outcomes:
        _record(outcome)
    with _alone(out):
        found = _summarise(_indexed(out), out, seed)
        write_aside(out / "summary.json", (json.dumps(found.as_json(), indent=1, ensure_ascii=False) + "\n").encode())
        lines = BytesIO()
        found.frame().write_csv(lines)
        write_aside(out / "summary.csv", lines.getvalue())
    return found


def _write_index(whole: Sequence[Cell], out: Path) -> None:
    """Write which runs a sweep has; a grid that has grown takes the place of the smaller one.

    Raises:
        RunError: when there is an index that holds other runs, beside runs that it lacks.
    """
    entries = [{"run": cell.directory, "axes": dict(cell.axes)} for cell in whole]
    file = out / "sweep.json"
    if file.exists():
        try:
            there = [*_indexed(out)]
        except (ValueError, KeyError, TypeError) as e:
            raise RunError(f"{file} is damaged ({e}). Remove it; it is written anew.") from e
        now = [cell.directory for cell in whole]
        if set(now) <= set(there):
            return
        if other := [run for run in there if run not in now]:
            raise RunError(
                f"{out} holds another sweep: its {other[0]} is not of this grid. Name another --out, or give a grid "
                f"that has all runs of the old one."
            )
    content = {"runs": entries}
    write_aside(file, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def _indexed(out: Path) -> dict[str, Mapping[str, Any]]:
    """Return the axes of all runs of the index, by directory."""
    content = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    return {entry["run"]: entry["axes"] for entry in content["runs"]}


def _failure(run: Path) -> Path:
    """Return the file that says why a run failed; beside its directory, which need not be there."""
    return run.with_name(f"{run.name}.failed")


def _record(outcome: Outcome) -> None:
    file = _failure(outcome.job.out)
    if outcome.status == "failed":
        write_aside(file, f"{outcome.message}\n".encode())
    else:
        file.unlink(missing_ok=True)


def _summarise(whole: Mapping[str, Mapping[str, Any]], out: Path, seed: int = 0) -> Summary:
    """Sum up the runs of a sweep as they stand; nothing is run.

    Args:
        whole: the axes of all runs, by directory.
        out: the sweep's directory.
        seed: of the bootstraps.
    """
    statuses, messages = {}, {}
    judged = []
    for name in whole:
        path = out / name
        finished = begun(path) and RunStore(path).finished()
        statuses[name] = "finished" if finished else "begun" if begun(path) else "not begun"
        if (file := _failure(path)).exists():
            statuses[name], messages[name] = "failed", file.read_text(encoding="utf-8").strip()
        elif finished:
            try:
                run = load_run(path)
                judged.append((name, run, judge(run, seed)))
            except ErrataError as e:
                messages[name] = str(e)
    return Summary(
        tuple(whole),
        tuple(whole.values()),
        tuple(statuses.values()),
        tuple(messages.get(name, "") for name in whole),
        methods_table(judged, seed),
    )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Let no other shard write the index or the summary inside the block."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield
