"""Whole runs of methods that change no weight: interrupted, resumed, read again, reported."""

import json
from pathlib import Path
from random import Random

import polars as pl
import pytest

import errata
from errata.editors.registry import editor_class, resolve_settings
from errata.editors.statistics import StatisticsStore
from errata.errors import RunError
from errata.models import EditableModel, load
from errata.probes import probe_class
from errata.probes.base import View
from errata.probes.scoring import score
from errata.report.page import report
from errata.studies.plan import plan
from errata.studies.progress import Progress
from errata.studies.recipe import load_recipe
from errata.studies.run import resume, run
from errata.studies.session import open_session, prepare
from errata.trajectory import DiskJournal, Trajectory
from tiny import tiny_facts, tiny_model, tiny_text_file

FACTS = tiny_facts(7)
METHODS = {
    "grace": {"layer": 1, "epsilon": 0.5, "steps": 4},
    "scr": {},
}
every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beside")
    model = tiny_model("gpt2")
    model.model.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    (folder / "facts.jsonl").write_text("".join(json.dumps(f.to_mapping()) + "\n" for f in FACTS))
    tiny_text_file(folder)
    return folder


def recipe_of(root: Path, name: str):
    text = str(root / "text.txt")
    content = {
        "model": {"name": str(root / "model")},
        "method": {"name": name, **METHODS[name]},
        "edits": {"dataset": "jsonl", "path": str(root / "facts.jsonl"), "batch_size": 2},
        "probes": [
            {"name": "proficiency"},
            {"name": "forgetting", "every": 2},
            {"name": "perplexity", "every": 3, "source": text, "lines": 10},
            {"name": "drift"},
            {"name": "text", "every": 2, "new_tokens": 3},
        ],
        "run": {"name": "r", "checkpoint_every": 4},
    }
    return load_recipe(content)


class _InterruptedError(Exception):
    pass


class _StopAfter(Progress):
    def __init__(self, step: int) -> None:
        self.step = step

    def edited(self, entries, rows, seconds) -> None:
        if entries[-1].step >= self.step:
            raise _InterruptedError


def content(out: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    lines = [json.loads(line) for line in found.pop("journal.jsonl").splitlines()]
    found["journal"] = json.dumps([{k: v for k, v in line.items() if k != "seconds"} for line in lines]).encode()
    # The ledger tells when; the rest is the same for identical runs.
    return {k: v for k, v in found.items() if k not in ("run.json", "usage.json", "ledger.jsonl", ".lock")}


@every_method
def test_an_interrupted_run_goes_on_as_if_nothing_had_been_and_its_model_comes_back(name, root, tmp_path) -> None:
    recipe = recipe_of(root, name)
    run(recipe, tmp_path / "whole")
    for step in (2, 4, 6):
        out = tmp_path / f"cut-{step}"
        with pytest.raises(_InterruptedError):
            run(recipe, out, _StopAfter(step))
        resume(out)
        assert content(out) == content(tmp_path / "whole")

    rows = pl.read_parquet(tmp_path / "whole" / "probes" / "drift" / "*.parquet")
    assert set(rows["step"]) == {2, 4, 6, 7}
    assert set(rows.filter(pl.col("metric") != "drift.growth")["value"]) == {0.0}
    assert set(rows.filter(pl.col("metric") == "drift.growth")["value"]) == {1.0}
    entries = [json.loads(line) for line in (tmp_path / "whole" / "journal.jsonl").read_text().splitlines()]
    assert {(e["status"], e["relative"], len(e["norms"])) for e in entries} == {("applied", 0.0, 0)}

    session = open_session(recipe)
    prepare(session, cache=tmp_path / "cache")
    Trajectory(session.model, session.editor, journal=DiskJournal(tmp_path / "whole"))
    ends = pl.read_parquet(tmp_path / "whole" / "probes" / "proficiency" / "*.parquet")
    ends = ends.filter(pl.col("metric") == "efficacy.exact@end").sort("edit_id")
    again = score(session.model, [(f.text, f.target_new) for f in FACTS])
    assert [s.logp for s in again] == pytest.approx(ends["logp_new"].to_list(), abs=1e-5)


@every_method
def test_a_plan_and_a_report_need_no_changed_matrix(name, root, tmp_path) -> None:
    recipe = recipe_of(root, name)
    assert plan(recipe, tmp_path).disk_gb < 1e-4
    page, _ = report(run(recipe, tmp_path / "run"))
    assert "NaN" not in page.read_text(encoding="utf-8").split("<script")[0]


def test_perplexity_scores_the_same_tokens_behind_whatever_preface(root) -> None:
    model = load(root / "model")
    cls = probe_class("perplexity")
    probe = cls(cls.Settings(source=str(root / "text.txt"), lines=10, max_tokens=20))
    probe.prepare(model, FACTS)
    plain = probe._rows(model)
    before, *_ = probe.measure(View(model, 0))
    model.preface = lambda text: "Old houses stand near water.\n" * 3
    prefaced = probe._rows(model)
    assert [len(ids) - start for ids, start in prefaced] == [len(ids) - start for ids, start in plain]
    assert all(a[0][a[1] :] == b[0][b[1] :] for a, b in zip(plain, prefaced, strict=True))
    assert all(len(b[0]) > len(a[0]) for a, b in zip(plain, prefaced, strict=True))
    after, *_ = probe.measure(View(model, 1))
    assert after.value != before.value
    model.preface = lambda text: "many people walk there " * 200
    assert {len(ids) for ids, _ in probe._rows(model)} == {model.positions}
    model.preface = lambda text: ""
    same, *_ = probe.measure(View(model, 2))
    assert same.value == before.value


@every_method
def test_edit_undoes_and_closes(name) -> None:
    model = tiny_model("gpt2")
    before = score(model, [(f.text, f.target_new) for f in FACTS])
    # Unguarded: a random model learns nothing from a prompt, and what teaches nothing is refused.
    result = errata.edit(model, FACTS[:2], name, guard=False, **METHODS[name])
    assert [e.status for e in result.entries] == ["applied", "applied"]
    edited = score(model, [(f.text, f.target_new) for f in FACTS])
    assert edited[:2] != before[:2]
    result.undo(id="1")
    # One row alone is rounded otherwise than among others.
    (undone,) = score(model, [(FACTS[1].text, FACTS[1].target_new)])
    assert undone.logp == pytest.approx(before[1].logp, abs=1e-5)
    assert result.undo() == ["0"]  # all that stands
    assert score(model, [(f.text, f.target_new) for f in FACTS]) == before
    with pytest.raises(RunError, match="0 are applied"):
        result.undo()
    result.close()
    assert score(model, [(f.text, f.target_new) for f in FACTS]) == before


def test_two_memories_on_one_model_do_not_hide_one_another() -> None:
    model = tiny_model("gpt2")

    def taught(fact) -> EditableModel:
        editor = editor_class("scr")(resolve_settings("scr", model))
        editor.prepare(model, StatisticsStore(), Random(0))
        Trajectory(model, editor).advance([fact])
        return model

    for fact in FACTS[:2]:
        taught(fact)
    for fact in FACTS[:2]:
        assert fact.target_new in model.tokenizer.decode(model.encode([fact.text])[0])
