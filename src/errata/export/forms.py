"""The three forms of an export: what was written and measured of each, and how the card tells it."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from errata.edits import Fact
from errata.export.card import Contents
from errata.export.measure import Fidelity
from errata.lab.models import LAB_MODELS
from errata.models.known import name_elsewhere
from errata.trajectory import Entry

__all__ = ["Exported", "Form", "contents"]

Form = Literal["full", "lora", "editor"]


@dataclass(frozen=True)
class Exported:
    """What was written, and what was measured of it.

    Args:
        out: the directory.
        form: the form.
        edits: how many edits the run holds.
        applied: how many of them are in the model.
        stated: how many of these the exported form states, every token the most probable one.
        ranks: of an adapter, the rank kept of each matrix.
        kept: of an adapter, the share of ‖ΔW‖_F kept of each matrix.
        max_lora_rank: of an adapter, with which `max_lora_rank` vLLM serves it; None where it serves none so large.
        fidelity: of an adapter, how far it is from the edited model.
    """

    out: Path
    form: Form
    edits: int
    applied: int
    stated: int
    ranks: Mapping[str, int] | None = None
    kept: Mapping[str, float] | None = None
    max_lora_rank: int | None = None
    fidelity: Fidelity | None = None

    @property
    def errors(self) -> dict[str, float] | None:
        """Of an adapter, ‖ΔW − BA‖_F/‖ΔW‖_F of each matrix: √(1 − kept²), as singular vectors are orthogonal."""
        return {path: math.sqrt(max(1 - kept**2, 0.0)) for path, kept in self.kept.items()} if self.kept else None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "out": str(self.out), "errors": self.errors}


def contents(
    exported: Exported,
    model: str,
    dtype: str,
    entries: Sequence[Entry],
    facts: Mapping[str, Fact],
    stated: Mapping[str, bool],
) -> Contents:
    """Return what the card says of an export.

    Args:
        exported: the export.
        model: the base model's name.
        dtype: the precision in which it was edited.
        entries: the journal.
        facts: by id.
        stated: which facts the exported form states, by id.
    """
    name, base = exported.out.name, repr(model if exported.form == "editor" else name_elsewhere(model))
    serve = note = ""
    if exported.form == "full":
        what = "plain weights"
        usage = (
            f"from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained({name!r})"
        )
    elif exported.form == "lora":
        what = "a LoRA adapter"
        usage = (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
            f"model = AutoModelForCausalLM.from_pretrained({base}, dtype={dtype!r})\n"
            f"model = PeftModel.from_pretrained(model, {name!r})"
        )
        serve, note = _served(exported, model)
        if model.endswith(".gguf"):
            note = f"transformers reads no adapter on a GGUF file: load the model that {model} was made of. {note}"
        if model in LAB_MODELS:
            note = (
                f"{model} comes with Errata: `errata lab export {model} --out {model}` writes it to be loaded. {note}"
            )
    else:
        what = "an editor, which stands beside the unedited weights"
        usage = (
            f"import errata\n\nmodel = errata.load({base}, dtype={dtype!r})\nattached = errata.attach(model, {name!r})"
        )
        note = "attached.detach() leaves the model as it was."
    return Contents(
        what=what,
        usage=usage,
        serve=serve,
        note=note,
        relation="finetune" if exported.form == "full" else "adapter",
        exported=list(_measured(exported)),
        entries=entries,
        facts=facts,
        stated=stated,
    )


def _served(exported: Exported, model: str) -> tuple[str, str]:
    if exported.max_lora_rank is None:
        return "", "Its rank is above the 512 that vLLM serves at most: export it with a smaller rank, or the weights."
    command = (
        f"vllm serve {shlex.quote(model)} --enable-lora --max-lora-rank {exported.max_lora_rank} "
        f"--lora-modules {shlex.quote(f'corrected={exported.out.name}')}"
    )
    return command, "vLLM serves adapters for the architectures that it lists with LoRA, which GPT-2 is not among."


def _measured(exported: Exported) -> list[str]:
    said = [f"{exported.stated:,} of the {exported.applied:,} applied edits are stated by the exported model."]
    if exported.fidelity is not None and exported.ranks and (errors := exported.errors):
        worst = max(errors, key=lambda path: errors[path])
        said += [
            f"Ranks: {', '.join(f'{path} {r}' for path, r in exported.ranks.items())}.",
            f"Relative error of the change, by Frobenius norm: {errors[worst]:.2g} at most ({worst}).",
            f"Logits differ from the edited model's by {exported.fidelity.logits:.2g} at most, behind "
            f"{exported.fidelity.prompts:,} of the edits' prompts.",
            f"{len(exported.fidelity.lost):,} edits that the edited model states are lost in this form"
            + (f": {', '.join(exported.fidelity.lost[:20])}." if exported.fidelity.lost else "."),
        ]
    return said
