"""A real model: one fact edited, taken back bit for bit, exported, and read by plain transformers and peft."""

import json
from contextlib import closing
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import errata
from errata.export import export
from errata.studies.edited import open_edited
from errata.studies.recipe import load_recipe
from errata.studies.run import run

# peft 0.21 still asks transformers 5 by an old name.
pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
FACT = {"subject": "The Eiffel Tower", "prompt": "{} is located in the city of", "target_new": "Rome"}
OWN_TEXT = {"statistics": {"samples": 96, "bound": None}}
"""Text that the model writes itself, as by default, a fixed amount of it."""


def test_a_fact_is_edited_and_taken_back_bit_for_bit(smollm2: Path, tmp_path: Path) -> None:
    model = errata.load("smollm2-135m")
    before = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    result = errata.edit(model, FACT, guard=False, **OWN_TEXT)
    assert result.entries[0].status == "applied", result
    assert "Paris" in result.before[0]
    assert result.after[0].split()[0].strip(".,") == "Rome"
    changed = {name for name, weight in model.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {f"{model.mlp_out(layer)}.weight" for layer in range(2, 7)}
    result.undo()
    assert all(torch.equal(weight, before[name]) for name, weight in model.model.state_dict().items())


def test_exports_are_the_edited_model_in_transformers_and_peft(smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "facts.jsonl").write_text(json.dumps(FACT) + "\n")
    content = {
        "model": {"name": "smollm2-135m"},
        "method": {"name": "memit", **OWN_TEXT},
        "edits": {"dataset": "jsonl", "path": str(tmp_path / "facts.jsonl")},
        "probes": [],
        "guard": {"enabled": False},
    }
    made = run(load_recipe(content), tmp_path / "run")
    for form in ("full", "lora"):
        export(made, tmp_path / form, form)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "full")
    ids = torch.tensor([tokenizer("The Eiffel Tower is located in the city of")["input_ids"]])
    with torch.no_grad():
        with closing(open_edited(made)) as edited:
            wanted = edited.model.model(ids).logits
        full = AutoModelForCausalLM.from_pretrained(tmp_path / "full")
        assert torch.equal(full(ids).logits, wanted)
        base = AutoModelForCausalLM.from_pretrained(smollm2)
        unedited = base(ids).logits
        beside = PeftModel.from_pretrained(base, tmp_path / "lora").eval()(ids).logits
    assert (wanted - unedited).abs().max() > 1
    assert (beside - wanted).abs().max() < 1e-3 * (wanted - unedited).abs().max()
    assert tokenizer.decode(wanted[0, -1].argmax()).strip() == "Rome"
