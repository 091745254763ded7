"""A model that stays loaded is fresh for every run, whatever the run before did to it."""

import json
from pathlib import Path

import pytest

from errata.distributed.resident import Resident
from errata.models import identity_of
from errata.studies import run as running
from errata.studies.engine import Job
from errata.studies.recipe import Recipe, load_recipe
from errata.studies.run import run
from tiny import tiny_facts, tiny_model


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    root = tmp_path_factory.mktemp("resident")
    model = tiny_model("gpt2")
    model.model.save_pretrained(root / "model")
    model.tokenizer.save_pretrained(root / "model")
    facts = [json.dumps(f.to_mapping()) for f in tiny_facts(5)]
    (root / "facts.jsonl").write_text("\n".join(facts) + "\n", encoding="utf-8")
    return load_recipe(
        {
            "model": {"name": str(root / "model")},
            "method": {"name": "ft-c", "steps": 2},
            "edits": {"dataset": "jsonl", "path": str(root / "facts.jsonl")},
            "probes": [{"name": "proficiency"}],
        }
    )


def rows(out: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(out.rglob("part-*.parquet"))]


def test_runs_of_one_model_load_it_once_and_find_it_as_it_was(recipe, tmp_path) -> None:
    resident = Resident()
    before = identity_of(resident.model(recipe.model))
    grace = load_recipe({**recipe.model_dump(), "method": {"name": "grace", "steps": 5}})  # beside the weights
    for i, asked in enumerate((recipe, grace, recipe)):
        assert resident.run(Job(asked, tmp_path / str(i))).status == "done"
        assert identity_of(resident.model(recipe.model)) == before
    assert resident.loads == 1
    assert rows(tmp_path / "0") == rows(tmp_path / "2") == rows(run(recipe, tmp_path / "alone"))
    assert rows(tmp_path / "1") == rows(run(grace, tmp_path / "grace"))


def test_a_run_that_breaks_down_leaves_nothing_behind(recipe, tmp_path, monkeypatch) -> None:
    resident = Resident()
    resident.model(recipe.model)
    restore = running.Trajectory.restore
    monkeypatch.setattr(running.Trajectory, "restore", lambda self: 1 / 0)
    broken = resident.run(Job(recipe, tmp_path / "broken"))
    assert (broken.status, "ZeroDivisionError" in broken.message) == ("failed", True)
    monkeypatch.setattr(running.Trajectory, "restore", restore)
    assert resident.run(Job(recipe, tmp_path / "next")).status == "done"
    assert resident.loads == 2
    assert rows(tmp_path / "next") == rows(run(recipe, tmp_path / "alone"))
