"""Suggestions that work, plug-ins that do not, and what `-o` can say."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from errata.analysis.room import room
from errata.cli.edit import _guard
from errata.editors import registry
from errata.editors.registry import editors, resolve_settings
from errata.editors.update import Dense, LowRank, Update
from errata.errors import ConfigError
from errata.export import suits
from errata.export.suits import suiting
from errata.plugins import PluginWarning
from errata.probes import registry as probe_registry
from errata.probes.registry import probes
from errata.studies.recipe import load_recipe
from errata.trajectory import DiskJournal, Entry
from tiny import tiny_model

RECIPE: dict[str, Any] = {"model": {"name": "lab-s"}, "method": {"name": "memit"}}


class Broken:
    name = "bad"

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load

    def load(self) -> Any:
        return self._load()


def raising() -> Any:
    raise ImportError("no module named 'gone'")


@pytest.mark.parametrize("load", [raising, lambda: int, lambda: exit(3)])
def test_a_broken_plug_in_is_named_and_left_out(load, monkeypatch) -> None:
    for place, find in ((registry, editors), (probe_registry, probes)):
        monkeypatch.setattr(place, "entry_points", lambda group: [])
        known = list(find())
        monkeypatch.setattr(place, "entry_points", lambda group: [Broken(load)])
        with pytest.warns(PluginWarning, match=r"the plug-in 'bad' \(errata\.\w+\) cannot be used and is left out"):
            assert list(find()) == known


def test_what_yaml_can_say_an_override_can() -> None:
    recipe = load_recipe(RECIPE, ["edits.sample=null", "probes=[proficiency, drift]", "probes.drift.every=5"])
    assert recipe.edits.sample == "0"
    assert [(p.name, p.settings) for p in recipe.probes] == [("proficiency", {}), ("drift", {"every": 5})]
    assert load_recipe({**RECIPE, "probes": ["drift"]}) == load_recipe(RECIPE, ["probes=drift"])
    assert load_recipe(RECIPE, ["edits.n=3", "edits.n=null"]).edits.n is None  # there null is a value
    with pytest.raises(ConfigError, match="name"):
        load_recipe(RECIPE, ["model.name=null"])
    model = tiny_model("gpt2")
    assert resolve_settings("memit", model, {"covariance_weight": None}) == resolve_settings("memit", model)


def test_another_method_keeps_what_both_understand_and_says_what_it_sets_aside() -> None:
    content = {**RECIPE, "method": {"name": "memit", "fast": True, "statistics": {"samples": 50}, "layers": [1, 2]}}
    told: list[str] = []
    recipe = load_recipe(content, ["method.name=rome", "method.layer=1"], told.append)
    assert recipe.method.name == "rome"
    assert recipe.method.settings == {"fast": True, "statistics": {"samples": 50}, "layer": 1}
    assert told == [
        "method.name=rome: of the recipe's settings of memit are kept: fast, statistics; set aside: layers."
    ]
    told.clear()
    assert load_recipe(content, ["method.name=memit"], told.append).method.settings["layers"] == [1, 2]
    bad = {**content, "method": {"name": "memit", "fact_token": "subject_first", "statistics": {"no_such": 1}}}
    assert load_recipe(bad, ["method.name=rome"], told.append).method.settings == {"fact_token": "subject_first"}
    assert "set aside: statistics" in told[-1]


def made(folder: Path, changes: dict[str, Any], status: str = "applied") -> Path:
    folder.mkdir()
    DiskJournal(folder).record([Entry(1, 1, "1", "Ada", status)], Update(changes))
    return folder


def test_only_exports_that_the_edits_allow_are_suggested(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(suits, "find_spec", lambda name: True)
    thin, whole = LowRank(torch.ones(4, 1), torch.ones(1, 4)), Dense(torch.ones(4, 4))
    assert suiting(made(tmp_path / "thin", {"h.0": thin}), "memit") == ("lora", "full")
    assert suiting(made(tmp_path / "dense", {"h.0": whole}), "ft-m") == ("full",)
    assert suiting(made(tmp_path / "bias", {"h.0.bias": thin}), "memit") == ("full",)
    assert suiting(tmp_path / "thin", "grace") == ("editor",)
    assert suiting(made(tmp_path / "none", {}, "rolled-back"), "memit") == ()
    monkeypatch.setattr(suits, "find_spec", lambda name: None)
    assert suiting(tmp_path / "thin", "memit") == ("full",)  # without peft no adapter can be written


def test_the_guard_is_not_called_off_when_it_refused_everything() -> None:
    said = str(room([], {"enabled": True, "budget": 0.1}))
    assert "off" not in said
    assert "no edit has landed" in said
    assert "the guard was off" in str(room([], {"enabled": False}))

    facts = [SimpleNamespace(status=s) for s in ("rolled-back", "rolled-back", "applied", "failed")]
    found = SimpleNamespace(guarded=True, damped=1, gentler=0, facts=facts, refused=[facts[0], facts[1], facts[3]])
    assert _guard(found) == "Guard: on. It refused 2 of 4 edits, 1 made smaller; 1 failed before it could judge."
    found.guarded = False
    assert _guard(found).startswith("Guard: off.")
