"""Models that accelerate has spread: editing and probing them gives what the whole model gives."""

from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM

from errata.editors.registry import editor_class, resolve_settings
from errata.editors.statistics import StatisticsStore
from errata.errors import ConfigError
from errata.models import EditableModel, identity_of, load
from errata.probes.generation import generate
from errata.probes.scoring import score
from errata.trajectory import Trajectory
from tiny import tiny_facts, tiny_model, tiny_text_file

pytest.importorskip("accelerate")
FACTS = tiny_facts(3)
_OUTSIDE = ("transformer.wte", "transformer.wpe", "transformer.ln_f", "lm_head")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    model = tiny_model("gpt2")
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    tiny_text_file(tmp_path)
    return tmp_path


def spread(directory: Path, *on_disk: str) -> EditableModel:
    parts = [*_OUTSIDE, *(f"transformer.h.{i}" for i in range(4))]
    return load(directory, device_map={part: "disk" if part in on_disk else "cpu" for part in parts})


def edited(model: EditableModel, directory: Path, method: str, **settings: object) -> list[float]:
    """Edit all facts, one after another, and return what is left to be seen of it."""
    chosen = {
        "statistics": {"source": str(directory / "text.txt")},
        "ridge": 1e-3,
        "value": {"steps": 3},
        "contexts": {"lengths": [[2, 2]]},
        **settings,
    }
    editor = editor_class(method)(resolve_settings(method, model, chosen))
    editor.prepare(model, StatisticsStore(), Random(0))
    trajectory = Trajectory(model, editor)
    for fact in FACTS:
        assert trajectory.advance([fact])[0].applied
    seen = [s.logp for s in score(model, [(fact.text, fact.target_new) for fact in FACTS])]
    with trajectory.at(0):
        before = [s.logp for s in score(model, [(fact.text, fact.target_new) for fact in FACTS])]
    assert before != seen
    return [*seen, *before]


@pytest.mark.parametrize(("method", "settings"), [("memit", {"layers": [1, 2]}), ("r-rome", {"layer": 1})])
def test_a_model_of_which_parts_lie_on_disk_is_edited_as_the_whole_one(directory, method, settings) -> None:
    offloaded = spread(directory, "transformer.wte", "transformer.h.0", "transformer.h.3", "lm_head")
    assert offloaded.device == torch.device("cpu")
    assert offloaded.parameter(offloaded.mlp_out(3)).is_meta
    whole = load(directory)
    assert identity_of(offloaded) == identity_of(whole)
    assert edited(offloaded, directory, method, **settings) == edited(whole, directory, method, **settings)
    prompts = [fact.text for fact in FACTS]
    assert generate(offloaded, prompts, 4) == generate(whole, prompts, 4)


def test_a_matrix_on_disk_is_not_edited(directory) -> None:
    model = spread(directory, "transformer.h.1")
    with pytest.raises(
        ConfigError, match=r"h\.1\.mlp\.c_proj is offloaded, so it cannot be edited: in model\.device_map"
    ):
        edited(model, directory, "r-rome", layer=1)


def test_without_accelerate_the_extra_is_named(directory, monkeypatch) -> None:
    monkeypatch.setattr("errata.models.loading.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"errata\[big\]"):
        load(directory, device_map="auto")


@pytest.mark.parametrize(
    ("parts", "refused"),
    [
        ({"a": 0, "b": 1}, True),
        ({"a": "cuda:0", "b": "cuda:1", "c": "disk"}, True),
        ({"a": 0, "b": 0, "c": "cpu", "d": "disk"}, False),
        ({"": "cpu"}, False),
    ],
)
def test_a_model_over_several_devices_is_refused(parts, refused, directory, monkeypatch) -> None:
    loaded = AutoModelForCausalLM.from_pretrained

    def spread_out(*args, **kwargs):
        model, report = loaded(*args, **{**kwargs, "device_map": None})
        model.hf_device_map = parts
        return model, report

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spread_out)
    if refused:
        with pytest.raises(ConfigError, match="spread the model over 2 devices"):
            load(directory, device_map="auto")
    else:
        load(directory, device_map="auto")
