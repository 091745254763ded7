"""Train a variant of a lab model and measure it: one line of the search's log a run.

    python scripts/lab_search.py lab-s --set noise=0 smoothing=0 --out /tmp/variant --edits 20 --methods r-rome memit

The directory is kept, so that settings of the editors can be tried on it again without training (--reuse).
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from errata.lab.evaluate import UNRELATED_TEXT, recall, task_scores
from errata.lab.models import asset_path, spec_of
from errata.lab.single_edits import measure_single_edits
from errata.lab.train import train
from errata.lab.world import build_world
from errata.models.loading import load


def main() -> None:
    """Run one variant and print its figures as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the lab model that is varied")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="fields of LabSpec to change")
    parser.add_argument("--editing", type=Path, help="editing.json to use; the shipped model's by default")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--reuse", action="store_true", help="measure what is in OUT already")
    parser.add_argument("--edits", type=int, default=20)
    parser.add_argument("--methods", nargs="*", default=["r-rome", "memit"])
    args = parser.parse_args()
    torch.set_num_threads(1)

    changes = {key: json.loads(value) for key, value in (item.split("=", 1) for item in args.set)}
    spec = dataclasses.replace(spec_of(args.name), **changes)
    started = time.monotonic()
    if not args.reuse:
        train(spec, args.out, progress=lambda step, steps, figures: print(step, steps, figures, file=sys.stderr))
    minutes = (time.monotonic() - started) / 60
    editing = args.editing or asset_path(args.name) / "editing.json"
    (args.out / "editing.json").write_text(editing.read_text())

    model, world = load(args.out), build_world(spec.people, spec.world_seed)
    facts = world.facts()
    figures: dict[str, Any] = {
        "set": changes,
        "minutes": round(minutes, 1),
        "recall": round(min(recall(model.model, model.tokenizer, facts).values()), 4),
        "recall_after_text": round(min(recall(model.model, model.tokenizer, facts, UNRELATED_TEXT).values()), 4),
        "tasks": {name: round(f1, 3) for name, f1 in task_scores(model.model, model.tokenizer).items()},
    }
    for method in args.methods:
        counts = measure_single_edits(model, method, world, args.edits, unrelated=100)
        figures[method] = {name: round(right / of, 3) for name, (right, of) in counts.items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
