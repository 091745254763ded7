"""Trackers: nobody is told by default, and who is told learns the settings, every step's figures, and the end."""

import json
import math
import re
import sys
from collections.abc import Mapping
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import errata
from errata.cli.terminal import TerminalProgress
from errata.errors import ConfigError, MissingExtraError
from errata.probes.rows import Row
from errata.studies.progress import Progress
from errata.studies.recipe import Recipe, load_recipe
from errata.studies.run import run
from errata.studies.tracking import figures, tracked
from errata.trajectory import Entry
from tiny import tiny_facts, tiny_model

TRACKERS = {"trackio", "wandb"}
CONFIG = {"run": {"name": "a-run"}, "method": {"name": "rome"}}
ENTRY = Entry(edit=1, step=1, id="0", subject="Ada", status="applied", relative=0.25, seconds=2.0)


class Fake(ModuleType):
    """Stand in for trackio or wandb, and note what it is told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.begun: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished: list[dict[str, Any]] = []

    def init(self, **settings: Any) -> None:
        self.begun = settings

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.logged.append((step, dict(metrics)))

    def finish(self, **settings: Any) -> None:
        self.finished.append(settings)


@pytest.fixture(params=["trackio", "wandb"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fake:
    module = Fake(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


def test_a_tracker_learns_settings_figures_and_the_end(fake: Fake, tmp_path: Path) -> None:
    rows = {
        "proficiency": [
            Row(0, "efficacy.success@base", 0.0),
            *(Row(1, "paraphrase.exact@now", v) for v in (1.0, 0.0, math.nan)),
            Row(1, "efficacy.exact@now", math.nan),
        ],
        "text": [Row(1, "text@now", math.nan, text="Oslo")],
        "downstream": [Row(1, "downstream.a.item", 1.0), Row(1, "downstream.a.f1", 0.5)],
    }
    with tracked(fake.__name__, CONFIG, tmp_path, Progress()) as told:
        told.begin(0, 1)
        told.measured(rows)
        told.edited([ENTRY], rows, 3.0)
        told.end()
        assert fake.finished == []
    assert (fake.begun["name"], fake.begun["project"], fake.begun["config"]) == ("a-run", "errata", CONFIG)
    assert fake.begun["resume"] == "allow"
    (zero, base), (one, now) = fake.logged
    assert (zero, base) == (0, {"efficacy.success@base": 0.0})
    assert one == 1
    assert math.isnan(now.pop("efficacy.exact@now"))
    assert now == {
        "edit/seconds": 2.0,
        "edit/relative": 0.25,
        "edit/applied": 1.0,
        "paraphrase.exact@now": 0.5,
        "missing/paraphrase.exact@now": 1.0,
        "missing/efficacy.exact@now": 1.0,
        "downstream.a.f1": 0.5,
    }
    assert fake.finished == [{} if fake.__name__ == "trackio" else {"exit_code": 0}]


def test_a_tracker_is_finished_when_the_run_fails(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), tracked(fake.__name__, CONFIG, tmp_path, Progress()):
        raise KeyboardInterrupt
    assert fake.finished == [{} if fake.__name__ == "trackio" else {"exit_code": 1}]


def test_a_whole_run_is_tracked(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(tmp_path, fake.__name__)
    run(recipe, tmp_path / "run")
    assert [step for step, _ in fake.logged] == [0, 1, 2]
    assert "efficacy.success@base" in fake.logged[0][1]
    assert "drift.relative" in fake.logged[2][1]
    assert fake.begun["config"]["run"]["tracker"] == fake.__name__
    assert len(fake.finished) == 1


def tiny_recipe(folder: Path, tracker: str) -> Recipe:

    model = tiny_model("gpt2")
    model.model.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    facts = [json.dumps(fact.to_mapping()) + "\n" for fact in tiny_facts(2)]
    (folder / "facts.jsonl").write_text("".join(facts))
    return load_recipe(
        {
            "model": {"name": str(folder / "model")},
            "method": {"name": "ft-c", "layer": 0, "steps": 1},
            "edits": {"dataset": "jsonl", "path": str(folder / "facts.jsonl")},
            "probes": [{"name": "proficiency"}, {"name": "drift"}],
            "run": {"tracker": tracker},
        }
    )


def test_nobody_is_told_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Recipe.model_validate({"model": {"name": "m"}, "method": {"name": "rome"}}).run.tracker == "none"
    for name in TRACKERS:
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    run(tiny_recipe(tmp_path, "none"), tmp_path / "run")
    assert TRACKERS.isdisjoint(sys.modules)
    sources = (file.read_text(encoding="utf-8") for file in Path(errata.__file__).parent.rglob("*.py"))
    assert not any(re.search(r"^\s*(import|from) (trackio|wandb)", source, re.MULTILINE) for source in sources)


class Refusing(MetaPathFinder):
    """Fail when a tracker is imported."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        assert fullname.partition(".")[0] not in TRACKERS, f"{fullname} was imported"


def test_an_absent_tracker_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"errata\[track\]"), tracked("wandb", CONFIG, tmp_path, Progress()):
        pass
    with pytest.raises(ConfigError, match=r"run\.tracker"):
        load_recipe({"model": {"name": "m"}, "method": {"name": "rome"}, "run": {"tracker": "mlflow"}})


def test_figures_of_other_steps_are_left_out() -> None:
    rows = {"unrelated": [Row(1, "unrelated.exact", 1.0), Row(2, "unrelated.exact", 0.0)]}
    assert figures(2, rows) == {"unrelated.exact": 0.0}


def test_progress_lines_tell_the_mean_of_all_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    items = [Row(1, "downstream.tydiqa.f1", v, prompt_id=str(v)) for v in (1.0, 0.0)]
    rows = [*items, Row(1, "downstream.tydiqa.accuracy", 0.0), Row(1, "downstream.mmlu.accuracy", 0.25)]
    shown = TerminalProgress("a-run")
    shown.begin(0, 1)
    shown.edited([ENTRY], {"lm_eval": rows, "proficiency": [Row(1, "efficacy.success@now", math.nan)]}, 2.0)
    line = capsys.readouterr().err
    assert "tasks 0.38" in line  # (0.5 + 0.25) / 2
    assert "efficacy dead" in line
    silent = [Row(1, "downstream.tydiqa.f1", math.nan), Row(1, "downstream.mmlu.accuracy", 0.25)]
    for rows, said in ((silent, "tasks 0.12"), (silent[:1], "tasks dead")):
        shown.edited([ENTRY], {"lm_eval": [*rows, Row(1, "downstream.a.gold", 1.0)]}, 2.0)
        assert said in capsys.readouterr().err
    assert "downstream.a.gold" not in figures(2, {"lm_eval": [Row(2, "downstream.a.gold", 1.0)]})
