"""Measure and write the tables into a page: `python -m benchmarks --page docs/performance.md`."""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.accuracy import long_runs
from benchmarks.aims import aims
from benchmarks.edits import METHODS, Subject, batches, one_by_one
from benchmarks.fast import fast_and_exact
from benchmarks.growth import keys_in_memory, whole_edits
from benchmarks.guard import watched
from benchmarks.memory import peaks
from benchmarks.probes import retests
from benchmarks.probing import probed_run
from benchmarks.real import MODELS, real_edits
from benchmarks.shapes import SIZES
from benchmarks.solve import solves
from benchmarks.startup import starts
from benchmarks.tables import Table, fill
from errata.models.known import models_cache
from errata.models.replay import multiplies_bfloat16

SECTIONS = ("startup", "solve", "edits", "probes", "growth", "memory", "guard")
LONG = ("batches", "medium", "fast", "accuracy", "probing", "real")
"""Sections that are measured only when they are named: each takes from three minutes to half an hour."""


def measure(section: str, quick: bool, folder: Path) -> Iterator[Table]:
    """Yield the tables of one section; `quick` keeps to one repetition and small counts."""
    small, repeats = SIZES["gpt2-small"], 1 if quick else 3
    some = ("memit",) if quick else ("memit", "alphaedit")
    if section == "startup":
        yield starts(repeats)
    elif section == "solve":
        widths = {"GPT-2": 3072} if quick else {"GPT-2": 3072, "GPT2-XL": 6400}
        yield solves(widths, (1, 100), repeats)
    elif section == "edits":
        yield one_by_one(Subject.random(small, repeats), some[:1] if quick else METHODS, folder)
    elif section == "medium":
        yield one_by_one(Subject.random(SIZES["gpt2-medium"], repeats), some[:1], folder)
    elif section == "real":
        for name in MODELS:
            yield real_edits(name, ("memit", "r-rome", "alphaedit"), 2 if quick else 5, folder)
    elif section == "batches":
        counts = {"memit": 4} if quick else {"memit": 100, "alphaedit": 20, "emmet": 20}
        yield batches(small, counts, 2, repeats, folder)
    elif section == "probes":
        yield retests(small, 2 if quick else 8, 10, 10 if quick else 50, 6, repeats)
    elif section == "growth":
        counts, near = ((10, 200), 10) if quick else ((10, 100, 1_000, 10_000), 40)
        yield whole_edits(SIZES["tiny"], counts, near, folder)
        # Whole rounds from one factorization to the next, which comes after 3,072 / 8 keys.
        yield keys_in_memory(768, counts, near if quick else 385, folder)
    elif section == "guard":
        yield watched(Subject.random(small, 2 if quick else 10), ("rome",) if quick else ("rome", "memit"), folder)
    elif section == "fast":
        yield fast_and_exact(some, 3 if quick else 100, folder)
        yield fast_and_exact(some, 3 if quick else 100, folder, clamp=0.4)
    elif section == "accuracy":
        yield long_runs(*((256, (10, 100, 1_000), 8, 100) if quick else (3072, (10, 100, 1_000, 10_000), 8, 500)))
    elif section == "probing":
        yield probed_run("lab-s" if quick else "lab-m", "memit", *((4, 2) if quick else (1_000, 100)), folder)
    else:
        yield peaks(SIZES["gpt2-small"] if quick else None, folder)


def _machine(threads: int) -> Table:
    """Say what the figures were measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    facts = {
        "processor": f"{processor}, {threads} threads on {os.cpu_count()} cores",
        "system": platform.platform(),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "multiplies in bfloat16": "yes" if multiplies_bfloat16("cpu") else "no",
    }
    return Table("machine", ["", ""], [list(pair) for pair in facts.items()], [facts])


def _conditions(threads: int) -> str:
    load = f"load {os.getloadavg()[0]:.1f} when it began"
    return f"{time.strftime('%Y-%m-%d')}, {threads} {'thread' if threads == 1 else 'threads'}, {load}"


def main() -> None:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS + LONG, default=SECTIONS, help=f"sections; by default all but {LONG}"
    )
    parser.add_argument("--quick", action="store_true", help="one repetition and small counts, to see that all works")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of torch; 2 by default")
    parser.add_argument("--page", type=Path, help="a page whose tables are replaced, such as docs/performance.md")
    parser.add_argument(
        "--json",
        type=Path,
        help="where every single figure is kept, those of other sections too; beside the page by default",
    )
    parser.add_argument("--folder", type=Path, help="where runs and caches are kept, so that long sections continue")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    transformers.utils.logging.set_verbosity_error()
    json_file = asked.json or (asked.page.with_suffix(".json") if asked.page else None)
    measured: dict[str, Any] = json.loads(json_file.read_text()) if json_file and json_file.exists() else {}

    def show(table: Table) -> None:
        table = replace(table, note=f"{conditions}." if table.rows else "")
        print(f"\n{table.name}\n\n{table.markdown()}", flush=True)
        measured[table.name] = [dict(record) for record in table.measured]
        # After every table, so that an interruption costs one.
        if asked.page:
            fill(asked.page, [table, aims(measured), _machine(asked.threads)])
        if json_file:
            json_file.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")

    conditions = _conditions(asked.threads)
    with ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("ERRATA_MODELS", str(models_cache()))
        os.environ["ERRATA_CACHE"] = str(folder)
        for section in asked.only:
            started, conditions = time.perf_counter(), _conditions(asked.threads)
            for table in measure(section, asked.quick, folder):
                show(table)
            print(f"\n{section}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
