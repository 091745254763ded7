"""What a long run spends on editing and what on probing: everything is asked for again at every checkpoint."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tables import Table
from errata.probes.rows import Row
from errata.studies.progress import Progress
from errata.studies.recipe import Recipe
from errata.studies.run import resume, run
from errata.trajectory import DiskJournal
from errata.trajectory.journal import Entry

__all__ = ["probed_run"]

_AGAIN = ("forgetting", "unrelated", "downstream", "drift")


class _Timed(Progress):
    """Note, a line a step, how long editing and probing took together; a run that was interrupted adds lines."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def edited(self, entries: Sequence[Entry], rows: Mapping[str, Sequence[Row]], seconds: float) -> None:
        """Write down a step's seconds."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps([entries[-1].step, seconds]) + "\n")


def probed_run(model: str, method: str, edits: int, every: int, folder: Path, **chosen: Any) -> Table:
    """Run edits one at a time with all probes, and divide its seconds; an interrupted run in the folder is continued.

    New facts are asked for after every edit, all facts so far, unrelated facts and all downstream tasks every so many.

    Args:
        model: its name.
        method: its name.
        edits: how many.
        every: after how many edits everything is asked for again.
        folder: for the run.
        chosen: settings of the method.
    """
    out, times = folder / f"probing-{model}-{method}-{edits}", folder / f"probing-{model}-{method}-{edits}.jsonl"
    probes = [{"name": "proficiency"}, *({"name": name, "every": every} for name in _AGAIN)]
    recipe = {
        "model": {"name": model},
        "method": {"name": method, **chosen},
        "edits": {"dataset": "lab", "n": edits, "seed": 0},
        "probes": probes,
        "run": {"name": "probing", "seed": 0, "checkpoint_every": every},
    }
    if (out / "run.json").exists():
        resume(out, _Timed(times))
    else:
        run(Recipe.model_validate(recipe), out, _Timed(times))
    # A step that was made again after an interruption was replayed, not edited: its first line holds its editing.
    lines = [json.loads(line) for line in times.read_text(encoding="utf-8").splitlines()]
    whole: dict[int, float] = dict(reversed(lines))
    edited = {entry.step: entry.seconds for entry in DiskJournal(out).entries}
    rows, measured = [], []
    for upto in dict.fromkeys((every, edits // 2, edits)):
        editing = sum(seconds for step, seconds in edited.items() if step <= upto)
        probing = sum(seconds for step, seconds in whole.items() if step <= upto) - editing
        rows.append([f"{upto:,}", f"{editing:.0f} s", f"{probing:.0f} s", f"{probing / editing:.0%}"])
        measured.append({"model": model, "method": method, "edits": upto, "editing": editing, "probing": probing})
    return Table("probing", [f"{model}, {method}: edits", "editing", "probing", "of editing"], rows, measured)
