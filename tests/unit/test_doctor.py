"""What would fail in hour nine is found before hour one."""

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from errata.editors.text_source import TextSource
from errata.edits import Fact
from errata.studies import doctor as examination
from errata.studies import machine
from errata.studies.doctor import check_recipe
from errata.studies.findings import Finding
from errata.studies.recipe import Recipe, load_recipe


def recipe(facts: Path, **method: object) -> Recipe:
    return load_recipe(
        {
            "model": {"name": "lab-s"},
            "method": {"name": "r-rome", **method},
            "edits": {"dataset": "jsonl", "path": str(facts)},
            "probes": [{"name": "drift"}, {"name": "unrelated", "source": str(facts.with_name("none.jsonl"))}],
        }
    )


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    file = tmp_path / "facts.jsonl"
    given = [
        Fact(id=str(i), subject=s, prompt="{} lives with a", target_new="donkey")
        for i, s in enumerate(("Hugo Orsini", "very " * 300 + "long"))
    ]
    file.write_text("".join(json.dumps(fact.to_mapping()) + "\n" for fact in given), encoding="utf-8")
    return file


def failed(findings: Iterable[Finding]) -> dict[str, str]:
    return {f.check: f.found for f in findings if f.state == "failed"}


def test_a_recipe_is_tried_whole_and_nothing_is_written(facts: Path, tmp_path: Path) -> None:
    found = list(check_recipe(recipe(facts), tmp_path / "run"))
    assert list(failed(found)) == ["probe unrelated"]  # and what comes after it is looked at all the same
    assert found[-1].check == "files"
    strange = [f.found for f in found if f.state == "warning" and f.check == "facts"]
    assert "1 of 2 are too long for the model: 1" in strange
    assert not (tmp_path / "run").exists()


def test_a_method_without_its_training_a_place_that_is_taken_and_too_little_memory(
    facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "run"
    taken.mkdir()
    (taken / "run.json").write_text("{}")
    mend = load_recipe({**recipe(facts).model_dump(mode="json"), "method": {"name": "mend"}, "probes": []})
    found = failed(check_recipe(mend, taken))
    assert "holds a run already" in found["run directory"]
    assert "must be trained first" in found["method"]
    monkeypatch.setattr("errata.studies.plan.available_on", lambda device: 1000)
    monkeypatch.setattr(examination, "open_session", None)  # a model that does not fit is not loaded
    assert "the device has 0.0 GB" in failed(check_recipe(recipe(facts), tmp_path / "other"))["memory"]


def test_a_recipe_that_cannot_be_resolved_is_one_finding(facts: Path, tmp_path: Path) -> None:
    found = list(check_recipe(recipe(facts, layer=99), tmp_path / "run"))
    assert [f.state for f in found] == ["failed"]
    assert "99" in found[0].found


def test_packages_are_those_the_installed_metadata_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["torch>=2", "pydantic>=99", "surely-not-there>=1; extra == 'ray'", "errata[ray]; extra == 'all'"]
    monkeypatch.setattr(machine, "requires", lambda name: asked)
    missing = machine.missing_packages()
    assert missing["ray"] == ["surely-not-there is not installed"]
    assert [line.partition(" ")[0] for line in missing[""]] == ["pydantic"]
    assert set(missing) == {"", "ray"}


def test_a_folder_must_have_room_and_be_one(tmp_path: Path) -> None:
    assert machine.check_folder("x", tmp_path / "a" / "b", 1).state == "ok"
    assert "will be written" in machine.check_folder("x", tmp_path, 10**18).found
    (tmp_path / "file").touch()
    assert "cannot be written" in machine.check_folder("x", tmp_path / "file" / "a", 1).found


def test_words_without_a_token_are_found_in_prompts_and_targets() -> None:
    words = {"Ada": 1, "plays": 2, "piano": 3}
    model = SimpleNamespace(
        tokenizer=SimpleNamespace(unk_token_id=0),
        encode=lambda texts: [[words.get(word, 0) for word in text.split()] for text in texts],
        encode_target=lambda text, after, join: [words.get(text, 0)],
    )
    assert not examination._unknown(model, Fact("Ada", "{} plays", "piano"))
    assert examination._unknown(model, Fact("Ada", "{} plays", "cello"))
    assert examination._unknown(model, Fact("Eve", "{} plays", "piano"))


def test_text_that_the_model_writes_itself_is_no_file_to_look_for() -> None:
    assert "writes itself" in examination._first(TextSource())
