"""A model is its weights, its configuration and its tokenizer, wherever an identity is kept or compared."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from errata.editors.statistics import StatisticsStore
from errata.editors.text_source import TextSource
from errata.errors import ResumeError
from errata.models import deviation, identity_of, load
from errata.models import identity as module
from errata.studies.recipe import load_recipe
from errata.studies.run import resume, run
from tiny import tiny_facts, tiny_model, tiny_text_file

PARTS = ("weights", "configuration", "tokenizer")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    model = tiny_model("llama")
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def _change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def damage(home: Path, part: str) -> None:
    """Change one part of a model directory, as little as can be."""
    if part == "configuration":
        _change(home / "config.json", rope_parameters={"rope_theta": 50.0, "rope_type": "default"}, rope_theta=50.0)
    elif part == "tokenizer":
        _change(home / "tokenizer.json", normalizer={"type": "Lowercase"})
    else:
        model = load(home)
        row = model.module(model.family.embeddings).weight[3]
        row[0] = torch.nextafter(row[0], torch.tensor(1.0))  # one bit of one number
        model.model.save_pretrained(home)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_counts_in_cache_and_resume(part, home, tmp_path) -> None:
    before = load(home)
    recorded = str(identity_of(before))
    assert deviation(load(home), recorded) == ""
    text = TextSource(source=str(tiny_text_file(tmp_path)), samples=4)
    StatisticsStore(tmp_path / "cache").second_moments(before, [0], text)
    facts = tmp_path / "facts.jsonl"
    facts.write_text("".join(json.dumps(fact.to_mapping()) + "\n" for fact in tiny_facts(2)))
    recipe = load_recipe(
        {
            "model": {"name": str(home)},
            "method": {"name": "ft-c", "layer": 0, "steps": 1},
            "edits": {"dataset": "jsonl", "path": str(facts)},
            "probes": [],
        }
    )
    run(recipe, tmp_path / "run", until=1)
    damage(home, part)
    after = load(home)
    assert [p for p in PARTS if getattr(identity_of(after), p) != getattr(identity_of(before), p)] == [part]
    files = {"weights": r"\*\.safetensors", "configuration": r"config\.json", "tokenizer": r"tokenizer\.json"}
    with pytest.raises(ResumeError, match=f"its {part} differ.*{files[part]}"):
        resume(tmp_path / "run")
    StatisticsStore(tmp_path / "cache").second_moments(after, [0], text)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_the_hash_is_kept_by_file_and_memory_is_still_believed_alone(home, monkeypatch) -> None:
    first = identity_of(load(home))
    hashed, whole = [], module._hashed
    monkeypatch.setattr(module, "_hashed", lambda model: hashed.append(1) or whole(model))
    model = load(home)
    assert identity_of(model) == first
    assert not hashed
    model.module(model.family.embeddings).weight.data[3] = 0.0  # an edit that no counter of torch sees
    assert identity_of(model).weights != first.weights
    assert hashed
    assert identity_of(load(home)) == first


def test_records_of_where_a_model_comes_from_are_no_part_of_it(home, tmp_path) -> None:
    before = identity_of(load(home))
    moved = Path(shutil.copytree(home, tmp_path / "elsewhere"))
    _change(moved / "config.json", transformers_version="4.0.0", use_cache=False, architectures=["GPT2"])
    model = load(moved)
    model.tokenizer(["a b c"], max_length=2, truncation=True)  # leaves a trace in its backend
    assert '"truncation":{' in model.tokenizer.backend_tokenizer.to_str()
    assert identity_of(model) == before
    model.tokenizer.chat_template = "{{ messages }}"
    assert deviation(model, str(before)).startswith("its tokenizer differs")


def test_a_record_of_an_earlier_version_is_still_compared() -> None:
    model = tiny_model("gptj")
    recorded = module._sampled(model)
    assert deviation(model, recorded) == ""
    path = model.mlp_out(1)
    model.write(path, model.weight(path) + 1e-3)
    assert deviation(model, recorded) == "its weights differ (*.safetensors)"


def test_a_precision_that_holds_the_weights_exactly_changes_nothing(tmp_path) -> None:
    tiny_model("llama", torch.bfloat16).model.save_pretrained(tmp_path)
    tiny_model("llama").tokenizer.save_pretrained(tmp_path)
    half, single, double = (identity_of(load(tmp_path, dtype=d)) for d in ("bfloat16", "float32", "float64"))
    assert half == single == double
    whole, rounded = tiny_model("llama"), tiny_model("llama", torch.bfloat16)
    assert identity_of(whole).weights != identity_of(rounded).weights
