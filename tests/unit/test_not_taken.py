"""An edit that does not take is said to not take, with its cause; after an undo, what no longer holds is measured."""

import json
from math import nan
from pathlib import Path

import pytest
from typer.testing import CliRunner

import errata
from errata.analysis.advice import why_not
from errata.analysis.frames import load_run
from errata.analysis.ledger import HOLDING, ledger
from errata.cli import app
from errata.errors import RunError
from errata.probes.scoring import score
from errata.studies.edited import open_edited
from errata.studies.ledger import holding, undo
from errata.studies.recipe import load_recipe
from errata.studies.run import run
from tiny import tiny_facts, tiny_model

METHOD = {"value": {"clamp_norm_factor": 0.75, "steps": 20, "lr": 0.5}, "covariance_weight": 20_000.0}
SEEN = {"target_probability": 0.95, "residual_norm": 3.0, "initial_norm": 8.0, "loss": 0.1}


@pytest.mark.parametrize(
    ("seen", "method", "said"),
    [
        (SEEN, METHOD, r"reached P 0\.95, but the edited weights give 0\.01: the strength.*covariance_weight.*20000"),
        (
            SEEN,
            {**METHOD, "covariance_weight": "auto", "realised": 0.9},
            r"raise method\.realised.*is 0\.9",
        ),
        ({**SEEN, "target_probability": 0.02, "residual_norm": 6.0}, METHOD, r"bound is too tight.*is 0\.75"),
        ({**SEEN, "target_probability": 0.02}, METHOD, r"only P 0\.02 in 20 steps"),
        ({"loss": 4.0}, {"steps": 25, "lr": 1e-4}, r"loss of 4 after at most 25 steps"),
    ],
)
def test_the_cause_is_named_from_what_was_seen(seen, method, said) -> None:
    import re

    assert re.search(said, why_not(seen, method, 0.01))
    assert "layer" not in why_not(seen, method, 0.01).replace("not the layers", "")


def test_nothing_is_said_where_nothing_was_seen() -> None:
    assert why_not({}, {}, nan) == ""


def test_the_python_api_says_of_every_fact_whether_it_took() -> None:
    model = tiny_model("gpt2")
    facts = tiny_facts(2)
    found = errata.edit(model, facts, "ft-m", layer=1, steps=1, lr=1e-9, guard=False)
    assert found.took == tuple(s.exact == 1.0 for s in score(model, [(f.text, f.target_new) for f in facts]))
    assert not all(found.took)
    assert "[applied, did not take]" in str(found)
    assert "likely: its training ended at a loss of" in str(found)


def test_after_an_undo_what_no_longer_holds_is_measured_and_logged(tmp_path: Path) -> None:
    home = tmp_path / "model"
    model = tiny_model("gpt2")
    model.model.save_pretrained(home)
    model.tokenizer.save_pretrained(home)
    fact = {"subject": "Ada", "prompt": "{} lives in"}
    lines = [{"id": i, **fact, "target_new": o} for i, o in (("a", "Oslo"), ("b", "Rome"), ("c", "Paris"))]
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = {
        "model": {"name": str(home)},
        "method": {"name": "ft-m", "layer": 1, "steps": 25, "lr": 1e-2},
        "edits": {"dataset": "jsonl", "path": str(tmp_path / "facts.jsonl")},
        "probes": [],
    }
    out = run(load_recipe(recipe), tmp_path / "run")
    undo(out, id="b")
    (held,) = holding(out, ["b"])
    assert (held.id, held.target) == ("c", "Paris")
    with open_edited(out) as edited:
        (scored,) = score(edited.model, [("Ada lives in", "Paris")])
    assert held.holds == (scored.exact == 1.0)
    assert [line.holds for line in ledger(load_run(out))] == [None, None, held.holds]
    (out / HOLDING).write_text(json.dumps({"c": {"holds": False, "says": "Oslo"}}))
    shown = CliRunner().invoke(app, ["log", str(out)]).output
    assert "does not hold since edits were taken back: the model says 'Oslo'" in shown
    said = CliRunner().invoke(app, ["undo", str(out), "--last", "1"]).output
    assert "facts that stand and were asked for hold" in said
    (out / HOLDING).write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        ledger(load_run(out))
