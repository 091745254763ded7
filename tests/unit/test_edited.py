"""A run directory's edited model: the same bits as the run left, for methods in the weights and beside them."""

import json
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from errata.errors import ConfigError, ResumeError, RunError
from errata.models import load
from errata.probes.generation import generate
from errata.studies import session
from errata.studies.edited import open_edited
from errata.studies.ledger import undo
from errata.studies.recipe import Recipe
from errata.studies.run import run
from tiny import tiny_facts, tiny_model, tiny_text_file

EDITS = 5
METHODS = {
    "memit": {
        "layers": [1, 2],
        "ridge": 0.01,
        "covariance_weight": 10.0,
        "value": {"steps": 3},
        "contexts": {"lengths": [[3, 2]]},
    },
    "grace": {"layer": 2, "steps": 5},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("edited")
    model = tiny_model("gpt2")
    model.model.save_pretrained(root / "model")
    model.tokenizer.save_pretrained(root / "model")
    facts = [json.dumps(f.to_mapping()) for f in tiny_facts(EDITS)]
    (root / "facts.jsonl").write_text("\n".join(facts) + "\n", encoding="utf-8")
    tiny_text_file(root)
    return root


def made(home: Path, out: Path, method: str) -> Path:
    settings = dict(METHODS[method])
    if method == "memit":
        settings["statistics"] = {"source": str(home / "text.txt")}
    content = {
        "model": {"name": str(home / "model")},
        "method": {"name": method, **settings},
        "edits": {"dataset": "jsonl", "path": str(home / "facts.jsonl")},
        "probes": [{"name": "text"}],
        "run": {"name": "r", "checkpoint_every": 3},
    }
    return run(Recipe.model_validate(content), out)


@pytest.mark.parametrize("keep_checkpoints", [True, False])
def test_weights_are_those_of_the_run_bit_for_bit(home, tmp_path, keep_checkpoints) -> None:
    out = made(home, tmp_path / "run", "memit")
    left = load_file(out / "checkpoints" / f"step-{EDITS:06d}" / "weights.safetensors")
    if not keep_checkpoints:
        for folder in (out / "checkpoints").iterdir():
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    with closing(open_edited(out)) as edited:
        assert edited.trajectory.step == EDITS
        assert sorted(left) == ["transformer.h.1.mlp.c_proj", "transformer.h.2.mlp.c_proj"]
        for path, weight in left.items():
            assert torch.equal(edited.model.weight(path), weight)
        with edited.trajectory.at(0) as base:
            assert torch.equal(base.weight(path), load(home / "model").weight(path))
        with pytest.raises(RunError, match="another process"):
            open_edited(out)
    open_edited(out).close()


def test_a_method_beside_the_weights_answers_until_closed(home, tmp_path, monkeypatch) -> None:
    out = made(home, tmp_path / "run", "grace")
    prompts = [fact.text for fact in tiny_facts(EDITS)]
    before = generate(load(home / "model"), prompts, 3)
    monkeypatch.setattr(session, "prepare_probes", lambda s: pytest.fail("nothing is measured here"))
    with open_edited(out) as edited:
        with pytest.raises(ConfigError, match="a run of their own"):
            edited.trajectory.advance(tiny_facts(1))
        assert generate(edited.model, prompts, 3) != before
    assert generate(edited.model, prompts, 3) == before


def test_what_is_not_the_run_is_named(home, tmp_path) -> None:
    with pytest.raises(RunError, match=r"no run\.json"):
        open_edited(tmp_path)
    out = made(home, tmp_path / "run", "grace")
    with pytest.raises(ResumeError, match=r"weights differ \(\*\.safetensors\)"):
        open_edited(out, model=tiny_model("gpt2", seed=1))
    facts, info = (out / "facts.jsonl").read_text(), (out / "run.json").read_text()
    for damaged, said in ((facts.replace("Oslo", "Rome"), "does not hold"), (facts[:-9], "line 5"), ("", "facts")):
        (out / "facts.jsonl").write_text(damaged)
        with pytest.raises(RunError, match=said):
            open_edited(out)
    (out / "facts.jsonl").write_text(facts)
    for damaged, said in ((info[:99], "damaged"), ("[]", "config"), ('{"config": {}}', "model_fingerprint")):
        (out / "run.json").write_text(damaged)
        with pytest.raises(RunError, match=said):
            open_edited(out)
    (out / "run.json").write_text(json.dumps({**json.loads(info), "config": {"model": {"nme": "x"}}}))
    with pytest.raises(RunError, match=r"did you mean 'name'"):
        open_edited(out)


def test_an_update_that_is_taken_back_need_not_be_there(home, tmp_path) -> None:
    out = made(home, tmp_path / "run", "grace")
    journal = (out / "journal.jsonl").read_bytes()
    (out / "updates" / "step-000005.safetensors").unlink()
    with pytest.raises(RunError, match=r"step-000005\.safetensors is missing"):
        undo(out, id="0")
    assert (out / "journal.jsonl").read_bytes() == journal
    assert undo(out).left == EDITS - 1
