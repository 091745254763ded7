"""Compare ROME's two keys for many subjects and prefixes, without editing: where could a single edit disable a model?

    python scripts/key_overlap.py lab-s -n 100
    python scripts/key_overlap.py path/to/model --facts facts.jsonl --seeds 10 -o layer=4 -o statistics.source=text.txt

`key_overlap` = k̄ᵀC⁻¹k° / k̄ᵀC⁻¹k̄; the published update is about 1/key_overlap times as large as with one key.
"""

import argparse
import sys
from pathlib import Path
from random import Random
from typing import Any

import torch

from errata.editors.keys import mean_keys
from errata.editors.methods.rome import ROME
from errata.editors.registry import resolve_settings
from errata.editors.statistics import StatisticsStore, default_cache
from errata.edits.datasets import load_facts
from errata.models import load
from errata.studies.recipe import lay_override


def main() -> int:
    """Print for each seed of the prefixes how the overlaps are spread, by where the subject stands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--facts", help="a file of facts; the lab model's own when absent")
    parser.add_argument("-n", type=int, help="how many facts; all when absent")
    parser.add_argument("--seeds", type=int, default=1, help="samples of prefixes")
    parser.add_argument("-o", action="append", default=[], metavar="KEY=VALUE", help="a setting of ROME")
    args = parser.parse_args()
    model = load(args.model)
    facts = load_facts("jsonl" if args.facts else "lab", args.facts and str(Path(args.facts)), model=args.model)[
        : args.n
    ]
    chosen: dict[str, Any] = {}
    for override in args.o:
        lay_override(chosen, override)
    settings = resolve_settings("rome", model, chosen)
    path = model.mlp_out(settings.layer)
    statistics = StatisticsStore(default_cache())
    (moment,) = statistics.second_moments(model, [settings.layer], settings.statistics)
    for seed in range(args.seeds):
        editor = ROME(settings)
        editor.prepare(model, statistics, Random(seed))
        mean, _ = mean_keys(model, path, facts, [[t] for t in editor._templates])
        bare, _ = mean_keys(model, path, facts, [["{}"]])
        whitened = editor._precision.solve(mean.double().T).T if editor._precision else mean.double()
        overlap = (bare.double() * whitened).sum(1) / (mean.double() * whitened).sum(1)
        sys.stdout.write(f"seed {seed}, {moment.tokens:,} tokens behind C\n")
        for where, begins in (("the text begins with the subject", True), ("something stands before it", False)):
            these = [i for i, fact in enumerate(facts) if fact.prompt.startswith("{}") == begins]
            if these:
                sys.stdout.write(f"  {where}: {spread(overlap[these])}\n")
        nearest = overlap.abs().argsort()[:4].tolist()
        few = ", ".join(f"{facts[i].subject} {float(overlap[i]):.4f}" for i in nearest)
        sys.stdout.write(f"  nearest to 0: {few}\n")
        sys.stdout.flush()
    return 0


def spread(overlap: torch.Tensor) -> str:
    """Say how many overlaps there are, how they are spread, and how many lie near zero."""
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=overlap.dtype)
    within = ", ".join(f"{q:.3f}" for q in overlap.quantile(quantiles).tolist())
    below = "  ".join(f"below {b}: {int((overlap.abs() < b).sum())}" for b in (0.005, 0.01, 0.05, 0.2))
    return f"{len(overlap)} facts, nearest to 0 {overlap.abs().min():.4f}, 5, 25, 50, 75, 95 % {within}  {below}"


if __name__ == "__main__":
    sys.exit(main())
