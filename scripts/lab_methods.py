"""Run every method on a lab model, one fact at a time and in batches, and write the tables under docs/results.

    python scripts/lab_methods.py                     # every method that has settings for lab-s
    python scripts/lab_methods.py --methods memit grace --singles 20

Runs that are there already are kept (or resumed); about three quarters of an hour on two cores for all.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import torch

from errata.editors.registry import editor_class, editors, resolve_settings
from errata.editors.statistics import StatisticsStore, default_cache
from errata.edits import EditStream
from errata.edits.datasets import load_stream
from errata.models import load
from errata.probes.base import View
from errata.studies.recipe import load_recipe
from errata.studies.session import build_probe
from errata.trajectory import Trajectory
from jobs import two_at_a_time

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "lab-methods.yaml"
BATCHES = (1, 10)
ASIDE = {"mello"}  # answers questions of several hops by a dialogue; the lab model follows no instructions


def main() -> int:
    """Train what must be trained, make all runs two at a time, measure single edits, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=[m for m in editors() if m not in ASIDE])
    parser.add_argument("--singles", type=int, default=10, help="single edits of each method")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "lab-methods")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.one:
        singles(args.one, args.singles, args.out)
        return 0
    started = time.monotonic()
    me = [sys.executable, str(Path(__file__))]
    jobs: list[list[str]] = []
    trainings: list[list[str]] = []
    for method in args.methods:
        needs = trained(method, args.out)
        if needs:
            begun = (Path(needs) / "resume.safetensors").exists()
            how = ["--resume"] if begun else TRAIN
            trainings.append([sys.executable, "-m", "errata", "train", method, *how, "--out", needs])
        single = args.out / f"singles-{args.singles}" / f"{method}.json"
        if not single.exists():
            jobs.append([*me, "--one", method, "--singles", str(args.singles), "--out", str(args.out)])
        for size in BATCHES:
            out = args.out / f"b{size}" / method
            chosen = [f"method.name={method}", f"edits.batch_size={size}", f"run.name={method}"]
            chosen += [f"method.checkpoint={needs}"] if needs else []
            options = [word for choice in chosen for word in ("-o", choice)]
            errata = [sys.executable, "-m", "errata"]
            jobs.append(
                [*errata, "resume", str(out)]
                if (out / "run.json").exists()
                else [*errata, "run", str(RECIPE), *options, "--out", str(out)]
            )
    if failed := two_at_a_time(trainings) or two_at_a_time(jobs):
        print(f"{failed} jobs failed, as told above: no tables are written. Call again; what is done is kept.")
        return 1
    write(args.methods, args.singles, args.out)
    print(f"{(time.monotonic() - started) / 60:.0f} minutes")
    return 0


# The first hundred facts are those that the runs edit.
TRAIN = ["--model", "lab-s", "--skip", "100"]


def trained(method: str, out: Path) -> str:
    """Return where a method's trained part lies; "" for methods that need none."""
    fields = editor_class(method).Settings.model_fields
    return str(out / "trained" / method) if "checkpoint" in fields else ""


def singles(method: str, n: int, out: Path) -> None:
    """Make single edits, each on the clean model, and write the means of what the probes find."""
    recipe = load_recipe(RECIPE)
    model = load(recipe.model.name)
    facts = load_stream(recipe.edits, recipe.model.name).facts
    needs = trained(method, out)
    editor = editor_class(method)(resolve_settings(method, model, {"checkpoint": needs} if needs else {}))
    probes = [build_probe("proficiency", {}), build_probe("unrelated", {})]
    for probe in probes:
        probe.prepare(model, facts)
    editor.prepare(model, StatisticsStore(default_cache()), Random(recipe.run.seed))
    trajectory = Trajectory(model, editor)
    found: dict[str, list[float]] = {}
    for fact in EditStream(facts[:n]).facts:
        entries = trajectory.advance([fact])
        view = View(model, trajectory.step, (fact,), (fact,))
        for row in (row for probe in probes for row in probe.measure(view)):
            found.setdefault(row.metric, []).append(row.value)
        if entries[0].applied:
            trajectory.undo()
    file = out / f"singles-{n}" / f"{method}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({name: sum(values) / len(values) for name, values in found.items()}))


SINGLE = (
    *("efficacy.success@now", "efficacy.exact@now", "paraphrase.success@now", "neighborhood.success@now"),
    *("unrelated.exact", "same_subject.exact"),
)


def write(methods: list[str], n: int, out: Path) -> None:
    """Write the tables of single edits and of both sequences."""
    results = ROOT / "docs" / "results"
    results.mkdir(exist_ok=True)
    measured = {m: json.loads((out / f"singles-{n}" / f"{m}.json").read_text()) for m in methods}
    lines = [["method", *SINGLE], ["---"] * (1 + len(SINGLE))]
    lines += [[m, *(f"{row[s] * 100:.0f} %" if s in row else "–" for s in SINGLE)] for m, row in measured.items()]
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    (results / "lab-singles.md").write_text(table)
    for size in BATCHES:
        runs = [str(out / f"b{size}" / m) for m in methods]
        page = out / f"b{size}.html"
        command = [sys.executable, "-m", "errata", "compare", *runs, "--out", str(page), "--table", "methods"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        (results / f"lab-sequence-b{size}.md").write_text(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
