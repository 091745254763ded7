"""Measure a lab model and write its card and its page.

    python scripts/lab_card.py lab-s [--sequence-only] [--edits 30] [--sequence 0]

On one core about ten minutes for lab-s and half an hour for lab-m.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from errata.lab.card import follow, measure, write_card
from errata.lab.models import LAB_MODELS, asset_path


def main() -> None:
    """Measure one model and write `card.json` beside its weights and the page under docs/lab."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(LAB_MODELS))
    parser.add_argument("--sequence-only", action="store_true", help="keep the card's other figures")
    parser.add_argument("--edits", type=int, default=100, help="single edits of each method")
    parser.add_argument("--sequence", type=int, help="edits in a sequence, 0 for none; one a person when absent")
    args = parser.parse_args()
    torch.set_num_threads(1)

    def tell(what: str, done: int, total: int) -> None:
        if done % 20 == 0 or done == total:
            print(f"{args.name}: {what}: {done}/{total}", file=sys.stderr, flush=True)

    if args.sequence_only:
        card = json.loads((asset_path(args.name) / "card.json").read_text(encoding="utf-8"))
        figures = {**card, "sequence": follow(args.name, args.sequence, progress=tell)}
    else:
        figures = measure(args.name, args.edits, args.sequence, progress=tell)
    write_card(figures, Path(__file__).resolve().parents[1] / "docs" / "lab")


if __name__ == "__main__":
    main()
