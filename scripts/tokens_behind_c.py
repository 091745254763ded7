"""Measure how many tokens of its own text a model needs behind C, and what fewer cost the edits.

    python scripts/tokens_behind_c.py --model smollm2-135m --counterfact FILE --text FILE

Prints a row of the table of docs/real-models.md for every bound, as soon as it is known: what C is worth for keys of
text that somebody else wrote, the λ that is calibrated with it, and what single edits of CounterFact records come to.
"""

import argparse
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from behind_norm import BEYOND, near
from errata.editors.methods.memit import MEMIT, MEMITSettings
from errata.editors.registry import resolve_settings
from errata.editors.statistics import StatisticsStore, default_cache, excess
from errata.models import EditableModel, load
from errata.models.hooks import capture
from real_models import chosen, edits_of, held_out, measured

BOUNDS = (10.0, 4.0, 2.5, 1.5)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--counterfact", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="text by others, such as WikiText-2's test part")
    parser.add_argument("--n", type=int, default=24)
    args = parser.parse_args()
    model = load(args.model)
    facts = chosen(model, args.counterfact, BEYOND + args.n, known=False)[BEYOND:]
    rows = held_out(model, args.text, lines=32)
    before = near(measured(model, fact, []) for fact in facts)
    print("| bound | tokens | mean kᵀC⁻¹k/d of others' text | λ | exact | paraphrase | neighborhood: change |")
    print("|---|---|---|---|---|---|---|")
    for bound in BOUNDS:
        settings = resolve_settings("memit", model, {"statistics": {"bound": bound}})
        assert isinstance(settings, MEMITSettings)
        editor = MEMIT(settings)
        records = list(edits_of(model, editor, [(fact, []) for fact in facts]))
        layer = settings.layers[len(settings.layers) // 2]
        store = StatisticsStore(default_cache())
        (moment,) = store.second_moments(model, [layer], settings.statistics)
        worth = excess(moment.ridged(settings.ridge), keys_of(model, layer, rows))
        exact = 100 * fmean(r["exact"] for r in records)
        paraphrase = 100 * fmean(value for r in records for value in r["paraphrase"])
        print(
            f"| {bound:g} | {moment.tokens:,} | {worth:.2f} | {records[0]['strength']:.0f} | {exact:.0f} | "
            f"{paraphrase:.0f} | {100 * (near(records) - before):+.1f} |",
            flush=True,
        )


@torch.no_grad()
def keys_of(model: EditableModel, layer: int, rows: list[list[int]]) -> Tensor:
    """Return what a layer's W receives at every token, in float64."""
    path = model.mlp_out(layer)
    found = []
    for row in rows:
        with capture(model.model, [path]) as seen:
            model.model(input_ids=torch.tensor([row]))
        found.append(seen[path].input[0])
    return torch.cat(found).double()


if __name__ == "__main__":
    main()
