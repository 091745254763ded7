"""Settings: which source wins, and how a mistake is named."""

from random import Random

import pytest
import yaml

from errata.editors import registry
from errata.editors.base import Editor
from errata.editors.registry import editor_class, editors, merge, resolve_settings
from errata.editors.settings import EditorSettings
from errata.errors import ConfigError
from errata.models import EditableModel
from tiny import tiny_model


@pytest.fixture
def model() -> EditableModel:
    return tiny_model("gpt2")


def test_defaults_then_depth_then_published_then_the_model_s_own_then_the_user_s(model, monkeypatch) -> None:
    plain = resolve_settings("memit", model)
    # Nobody has published settings for this model: what fits one model alone is set by what suits others.
    assert (plain.value.clamp_norm_factor, plain.covariance_weight) == (1.0, "auto")
    assert plain.layers == (0, 1)
    sources = {"layers": (0,), "value": {"lr": 0.4, "steps": 7}, "ridge": 0.1}
    monkeypatch.setattr(registry, "published", lambda model: {"memit": sources})
    assert resolve_settings("memit", model).layers == (0,)
    model.settings = {"memit": {"value": {"lr": 0.3}, "ridge": 0.2}}
    resolved = resolve_settings("memit", model, {"value": {"steps": 9}})
    assert (resolved.value.steps, resolved.value.lr, resolved.ridge) == (9, 0.3, 0.2)
    # A section given in part keeps the rest of the method's own default, not of the section's.
    assert resolved.value.clamp_norm_factor == 0.75
    # Where settings are published, the other defaults are the published ones as well.
    assert resolved.covariance_weight == 20_000


@pytest.mark.parametrize(
    ("name", "chosen", "named"),
    [
        ("rome", {"valu": {}}, r"unknown key 'valu'; did you mean 'value'\?"),
        ("rome", {"value": {"step": 3}}, r"unknown key 'value\.step'; did you mean 'steps'\?"),
        ("memit", {"zzzz": 1}, r"unknown key 'zzzz'; known keys: contexts, "),
        ("rome", {"value": {"lr": -1}}, r"'value\.lr' is -1: Input should be greater than 0"),
        ("memit", {"layers": [2, 1]}, r"layers must ascend without repeats, found \[2, 1\]"),
        ("memit", {"layers": []}, "'layers' is"),
        ("rome", {"layer": 4}, "layer 4 is out of range: tiny-gpt2 has layers 0 to 3"),
        ("memit", {"layers": [0, 9]}, "layer 9 is out of range"),
        ("ft-c", {"layer": -1}, "'layer' is -1"),
    ],
)
def test_a_mistake_is_named_with_the_key_and_what_would_do(model, name: str, chosen: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        resolve_settings(name, model, chosen)


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"known methods: .*memit.* Did you mean 'memit'\?"):
        editor_class("memmit")


def test_sections_are_laid_over_one_another_and_nothing_is_changed_in_place() -> None:
    low, high = {"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}, "c": 4}
    assert merge(low, high) == {"a": {"x": 1, "y": 3}, "b": 1, "c": 4}
    assert low == {"a": {"x": 1, "y": 2}, "b": 1}


def test_every_setting_says_what_it_means() -> None:
    for cls in editors().values():
        undocumented = [k for k, f in cls.Settings.model_fields.items() if not f.description]
        assert not undocumented, (cls.name, undocumented)
        assert cls.paper


@pytest.mark.parametrize("collection", ["published", "found"])
def test_every_file_of_settings_resolves_for_the_model_it_names(model, collection: str) -> None:
    folder = registry.Path(registry.__file__).parent / collection
    files = sorted(folder.glob("*.yaml"))
    assert files
    matching = getattr(registry, collection)
    assert matching(model) == {}
    for file in files:
        record = yaml.safe_load(file.read_text())
        config = model.model.config.to_dict()
        tall = tiny_model("gpt2")
        tall.n_layers = 48
        tall.model.config.to_dict = lambda record=record, config=config: {**config, **record["match"]}
        assert matching(tall) == record["methods"], file.name
        for name in record["methods"]:
            resolve_settings(name, tall)
        if "memit" not in record["methods"]:
            continue
        # Published settings are whole; found ones are laid over what suits every model without published ones.
        assert (resolve_settings("memit", tall).covariance_weight == "auto") == (collection == "found")
        assert resolve_settings("memit", tall).layers == tuple(record["methods"]["memit"]["layers"])


def test_an_editor_of_another_package_is_found_by_its_entry_point(monkeypatch) -> None:
    class Foreign(Editor):
        name, paper, Settings = "foreign", "none", EditorSettings

        def propose(self, model, batch):
            raise NotImplementedError

    class Point:
        def load(self):
            return Foreign

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()] if group == "errata.editors" else [])
    assert editor_class("foreign") is Foreign
    editor = Foreign(EditorSettings())
    editor.prepare(tiny_model("gpt2"), None, Random(0))
    assert editor.state_dict() == {}


def test_settings_like_another_method_s(model) -> None:
    model.settings = {
        "memit": {"layers": [0], "ridge": 0.5, "covariance_weight": 3.0, "fact_token": "last"},
        "alphaedit": {"like": "memit", "identity_weight": 2.0},
        "r-rome": {"like": "memit", "layer": 1},
        "rect": {"like": "alphaedit"},
        "prune": {"like": "nothing"},
    }
    resolved = resolve_settings("alphaedit", model)
    assert (resolved.layers, resolved.fact_token, resolved.identity_weight) == ((0,), "last", 2.0)
    assert resolve_settings("r-rome", model).ridge == 0.5  # and what only MEMIT knows is left behind
    for name in ("alphaedit", "nas"):
        for setting in ("ridge", "covariance_weight"):  # C gives its null space alone
            with pytest.raises(ConfigError, match=setting):
                resolve_settings(name, model, {setting: 0.5})
    for name in ("rect", "prune"):
        with pytest.raises(ConfigError, match=f"settings of {name} are like"):
            resolve_settings(name, model)


def test_a_threshold_that_is_given_takes_the_place_of_the_free_share(model) -> None:
    assert resolve_settings("alphaedit", model).free_share == 0.8
    given = resolve_settings("alphaedit", model, {"threshold": 0.02})
    assert (given.threshold, given.free_share) == (0.02, None)
    assert resolve_settings("alphaedit", model, {"threshold": 0.02, "free_share": 0.5}).free_share == 0.5
