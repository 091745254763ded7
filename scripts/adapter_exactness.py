"""How near an adapter is to the edited model, and how much of the distance is rounding: the table of docs/export.md.

python scripts/adapter_exactness.py lab-s --out runs/adapter
python scripts/adapter_exactness.py lab-s-llama --out runs/adapter
"""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from errata.editors.update import LowRank
from errata.export import export
from errata.export.factors import factorise
from errata.lab.models import export as export_lab
from errata.studies.edited import open_edited
from errata.studies.recipe import load_recipe
from errata.studies.run import run
from errata.trajectory import Trajectory

PROMPTS, PADDING = 96, 7


@torch.no_grad()
def logits(model: PreTrainedModel, rows: Sequence[Sequence[int]], padding: Sequence[int] = ()) -> list[Tensor]:
    """Return the logits at all positions of each row, read by itself."""
    return [model(torch.tensor([[*row, *padding]])).logits[0, : len(row)].double() for row in rows]


def furthest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the largest difference of any logit."""
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def with_matrices(base: PreTrainedModel, masters: Mapping[str, Tensor], transposed: bool) -> PreTrainedModel:
    """Return the model with the edited matrices in its own precision."""
    for path, weight in masters.items():
        own = base.get_submodule(path).weight.data
        own.copy_(weight.T if transposed else weight)
    return base


def main() -> None:
    """Edit, export, and compare in float32 and in float64."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a lab model")
    parser.add_argument("--out", type=Path, required=True, help="where model, run and adapter are kept")
    parser.add_argument("-n", type=int, default=12, help="how many edits")
    arguments = parser.parse_args()
    name, root = arguments.model, arguments.out
    home, made, adapter = root / name, root / f"{name}-run", root / f"{name}-adapter"
    content: dict[str, Any] = {
        "model": {"name": name},
        "method": {"name": "memit"},
        "edits": {"dataset": "lab", "n": arguments.n},
        "probes": [],
    }
    if not made.exists():
        export_lab(name, home)
        run(load_recipe(content), made)
        export(made, adapter, "lora")

    with closing(open_edited(made)) as edited:
        model, tokenizer = edited.model, edited.model.tokenizer
        rows = prompts(tokenizer, edited.stream.facts)
        wanted, padded = logits(model.model, rows), logits(model.model, rows, [0] * PADDING)
        rounded = roundings(edited.trajectory)
        masters = {path: weight.clone() for path, weight in edited.trajectory.masters().items()}
        transposed = any(model.model.get_submodule(path).weight.shape != w.shape for path, w in masters.items())
        transposed = transposed or "gpt2" in model.model.config.model_type

    def base(dtype: torch.dtype) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(home, dtype=dtype).eval()

    exact = logits(with_matrices(base(torch.float64), masters, transposed), rows)
    beside = PeftModel.from_pretrained(base(torch.float32), adapter).eval()
    doubled = PeftModel.from_pretrained(base(torch.float64), adapter).double().eval()
    before = logits(base(torch.float32), rows)
    said = {
        "largest logit": max(float(row.abs().max()) for row in wanted),
        "moved by the edits": furthest(wanted, before),
        "adapter beside, float32": furthest(logits(beside, rows), wanted),
        "adapter merged, float32": furthest(logits(beside.merge_and_unload(), rows), wanted),
        "the edited model, float32 against float64": furthest(wanted, exact),
        f"the edited model with {PADDING} tokens of padding": furthest(padded, wanted),
        "adapter beside, both in float64": furthest(logits(doubled, rows), exact),
        "adapter merged, both in float64": furthest(logits(doubled.merge_and_unload(), rows), exact),
    }
    for what, figure in said.items():
        print(f"{what:<48}{figure:.3g}")
    for what, errors in rounded.items():
        print(f"ΔW by {what:<42}{min(errors):.2g} to {max(errors):.2g}")


def roundings(trajectory: Trajectory) -> dict[str, list[float]]:
    """Return how far ΔW is from the sum of all updates in float64, relative by Frobenius norm, for each matrix."""
    changes: dict[str, list[LowRank]] = {}
    for step in trajectory.journal.active_steps():
        for path, change in trajectory.journal.update(step).changes.items():
            assert isinstance(change, LowRank)
            changes.setdefault(path, []).append(change)
    found: dict[str, list[float]] = {}
    for path, parts in changes.items():
        exact = torch.stack([part.left.double() @ part.right.double() for part in parts]).sum(0)
        kept = factorise(parts)
        u, s, vt = torch.linalg.svd(exact, full_matrices=False)
        u, s, vt = u[:, : kept.rank], s[: kept.rank], vt[: kept.rank]
        forms = {
            "the edited model's masters": trajectory.masters()[path].double() - trajectory.base()[path].double(),
            "the adapter's factors": kept.change.left.double() @ kept.change.right.double(),
            "factors with all of Σ on the left": (u * s).float().double() @ vt.float().double(),
            "factors with all of Σ on the right": u.float().double() @ (s[:, None] * vt).float().double(),
        }
        for what, form in forms.items():
            found.setdefault(what, []).append(float((form - exact).norm() / exact.norm()))
    return found


def prompts(tokenizer: PreTrainedTokenizerBase, facts: Sequence[Any]) -> list[list[int]]:
    """Return the token rows of the edits' prompts, their paraphrases and their neighbors, as many as are read."""
    texts = [t for f in facts for t in (f.text, *f.paraphrase_prompts, *f.neighborhood_prompts)]
    return [tokenizer(text)["input_ids"] for text in dict.fromkeys(texts)][:PROMPTS]


if __name__ == "__main__":
    main()
