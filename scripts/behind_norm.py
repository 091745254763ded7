"""Hold the treatment of a norm behind W against plain alternatives, by what single edits of Gemma 3 270M come to.

    python scripts/behind_norm.py --counterfact FILE --n 24

Prints the table of docs/families.md. The records are others than those of docs/results/real-models.md.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest.mock import patch

from jaxtyping import Float
from torch import Tensor

from errata.editors.methods.memit import MEMIT
from errata.editors.registry import resolve_settings
from errata.editors.staged import Staged
from errata.editors.values import TargetValue
from errata.edits import Fact
from errata.models import EditableModel, load
from real_models import chosen, edits_of, measured

BEYOND = 2000  # records of the same shuffle that the page of real models may use


class Unscaled(MEMIT):
    """Ask W for r itself, as if nothing stood behind it."""

    def _residual(
        self, model: EditableModel, bare: Staged, targets: Sequence[TargetValue], index: int
    ) -> Float[Tensor, "out fact"]:
        return self._missing(model, bare, targets) / self._parts(index)


class OnBlock(MEMIT):
    """Optimise δ on the block's output, where it may leave what the norm can reach."""

    def _targets(self, model: EditableModel, batch: Sequence[Fact]) -> list[TargetValue]:
        with patch.object(EditableModel, "mlp_norm", lambda self, layer: None):
            return super()._targets(model, batch)


class Plain(OnBlock, Unscaled):
    """Both: MEMIT as it is written, for models without such a norm."""


VARIANTS: dict[str, Callable[[Any], MEMIT]] = {
    "ours: δ before the norm, the nearest output that it can reach": MEMIT,
    "δ before the norm, r unscaled": Unscaled,
    "δ on the block's output, the nearest output that the norm can reach": OnBlock,
    "δ on the block's output, r unscaled": Plain,
}


def main() -> None:
    """Print a row a variant, as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--counterfact", type=Path, required=True)
    parser.add_argument("--n", type=int, default=24)
    args = parser.parse_args()
    model = load(args.model)
    facts = chosen(model, args.counterfact, BEYOND + args.n, known=False)[BEYOND:]
    before = near(measured(model, fact, []) for fact in facts)
    print("| treatment | success | exact | paraphrase | neighborhood: change | s an edit |\n|---|---|---|---|---|---|")
    for name, variant in VARIANTS.items():
        editor = variant(resolve_settings("memit", model, {}))
        records = list(edits_of(model, editor, [(fact, []) for fact in facts]))
        shares = [100 * fmean(r[key] for r in records) for key in ("success", "exact")]
        shares.append(100 * fmean(value for r in records for value in r["paraphrase"]))
        columns = [f"{share:.0f}" for share in shares]
        columns += [f"{100 * (near(records) - before):+.1f}", f"{median(r['seconds'] for r in records):.1f}"]
        print(f"| {name} | {' | '.join(columns)} |", flush=True)


def near(records: Any) -> float:
    """Return the share of neighbors at which the true object is the more probable one."""
    return fmean(value for record in records for value in record["neighborhood"])


if __name__ == "__main__":
    main()
