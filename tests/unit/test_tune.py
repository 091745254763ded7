"""errata tune: trials are recorded, resumed and compared by the objective; what is found is used from then on."""

import json
from pathlib import Path

import pytest

from errata.editors.registry import origin_of_settings, resolve_settings
from errata.editors.tuned import read_tuned, settings_file, write_tuned
from errata.edits import Fact
from errata.errors import AnalysisError, ConfigError
from errata.models import EditableModel
from errata.studies import tune as tuning
from errata.studies.candidates import candidates
from errata.studies.first_edits import first_edits
from errata.studies.tune import Outcome, Trial, known, occasion, short, tune
from tiny import tiny_model


def facts(n: int = 3) -> list[Fact]:
    return [
        Fact(
            subject=f"Stone {i}",
            prompt="{} lies in",
            target_new="morning",
            target_true="light",
            id=str(i),
            paraphrase_prompts=(f"The place of Stone {i} is",),
            neighborhood_prompts=(f"River {i} lies in",),
        )
        for i in range(n)
    ]


def outcome(**changes: float) -> Outcome:
    figures = {"exact": 1.0, "success": 1.0, "paraphrase": 0.9, "neighborhood": 0.9, "perplexity": 1.0, "seconds": 1.0}
    return Outcome(**{**figures, **changes})


def test_perplexity_is_a_constraint_and_the_rest_a_product() -> None:
    assert outcome().objective == pytest.approx(0.81)
    assert outcome(perplexity=1.02).objective == 0
    assert outcome(perplexity=float("nan")).objective == 0
    assert Trial({}, 1, None).objective < Trial({}, 1, outcome(exact=0.0)).objective


def test_the_best_setting_is_kept_recorded_and_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def figures(bench: object, settings: dict, chosen: list[Fact]) -> Outcome:
        made.append(short(settings))
        return outcome(exact=0.9 if settings.get("lr") == pytest.approx(2e-4 * 0.3) else 0.5)

    monkeypatch.setattr(tuning._Bench, "_outcome", figures)
    model, file = tiny_model("gpt2"), tmp_path / "trials.jsonl"
    first, best = tune(model, "lora", facts(), file)
    assert best.settings["lr"] == pytest.approx(2e-4 * 0.3)
    assert best.objective > first.objective
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0]["settings"] == {}
    # A line that a crash has cut short is left out, and all others are read.
    count = len(made)
    with file.open("a") as f:
        f.write('{"settings": {"lr')
    again = tune(model, "lora", facts(), file)
    assert again[-1].settings == best.settings
    assert len(made) == count


def test_no_trial_is_begun_after_the_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict] = []
    monkeypatch.setattr(tuning._Bench, "_outcome", lambda bench, settings, chosen: made.append(settings) or outcome())
    assert len(tune(tiny_model("gpt2"), "memit", facts(), tmp_path / "t.jsonl", seconds=0.0)) == 1
    assert made == [{}]


def test_single_edits_leave_model_and_editor_as_they_were() -> None:
    from random import Random

    from errata.editors.registry import editor_class
    from errata.editors.statistics import StatisticsStore

    model = tiny_model("llama")
    editor = editor_class("ft-m")(resolve_settings("ft-m", model, {"steps": 2}))
    editor.prepare(model, StatisticsStore(), Random(0))
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    seen = []
    for fact, entry in first_edits(model, editor, facts(2)):
        changed = any(not before[name].equal(value) for name, value in model.model.state_dict().items())
        seen.append((fact.id, entry.status, changed))
    assert seen == [("0", "applied", True), ("1", "applied", True)]
    assert all(before[name].equal(value) for name, value in model.model.state_dict().items())


def test_layers_to_try_lie_in_the_model() -> None:
    model: EditableModel = tiny_model("llama")
    for method in ("memit", "rome", "ft-m", "lora", "alphaedit"):
        default = resolve_settings(method, model)
        for _, options in candidates(default, model):
            for option in options:
                resolve_settings(method, model, option)


def test_facts_that_nothing_can_be_measured_on_are_refused() -> None:
    bare = [Fact(subject="Stone", prompt="{} lies in", target_new="morning")]
    with pytest.raises(AnalysisError, match="--facts FILE"):
        known(tiny_model("gpt2"), bare)


def test_found_settings_are_used_for_this_very_model_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path))
    model, other = tiny_model("gpt2"), tiny_model("gpt2", seed=1)
    assert "layers by depth" in origin_of_settings("memit", model)
    write_tuned(settings_file(model), "memit", {"realised": 0.6, "value": {"steps": 7}}, "objective 0.9")
    assert resolve_settings("memit", model).realised == 0.6
    assert resolve_settings("memit", model, {"value": {"steps": 8}}).value.steps == 8
    assert "errata tune" in origin_of_settings("memit", model)
    assert resolve_settings("memit", other).realised != 0.6
    settings_file(model).write_text("[")
    with pytest.raises(Exception, match="Delete it; errata tune makes it anew"):
        resolve_settings("memit", model)


def test_tuning_again_starts_from_the_untuned_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path))
    model = tiny_model("gpt2")
    before, default = occasion(model, "lora", facts()), resolve_settings("lora", model)
    write_tuned(settings_file(model), "lora", {"lr": 0.5}, "by hand")
    assert resolve_settings("lora", model).lr == 0.5
    assert resolve_settings("lora", model, untuned=True) == default
    assert occasion(model, "lora", facts()) == before
    assert occasion(model, "lora", facts(2)) != before


def test_found_settings_go_with_the_configuration_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path))
    model = tiny_model("llama")
    write_tuned(settings_file(model), "lora", {"lr": 0.5}, "by hand")
    model.model.config.rope_parameters = {**model.model.config.rope_parameters, "rope_theta": 77.0}
    assert resolve_settings("lora", model).lr != 0.5


def test_a_file_of_settings_that_holds_something_else_is_named_before_anything_is_tried(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("lr: 3")
    with pytest.raises(ConfigError, match="holds no settings"):
        read_tuned(file)
