"""What would spoil every edit is found before the first: a dead model, text in another encoding, too little text."""

from pathlib import Path

import pytest
import torch

import errata
from errata.cli.ledger import _lines
from errata.editors.statistics import StatisticsStore
from errata.editors.text_source import TextSource
from errata.edits.orders import apply_order
from errata.edits.records import local_records
from errata.errors import ConfigError, EditDataError, ErrataError, ModelError, StatisticsError
from errata.probes.canary import canary_lines
from errata.probes.records import open_source
from errata.studies.correct import correct, correction_recipe
from errata.studies.plan import plan
from errata.studies.recipe import load_recipe
from errata.studies.session import open_session
from errata.studies.trace import trace
from tiny import tiny_facts, tiny_model, tiny_text


def test_a_model_that_is_dead_is_named_at_every_door(tmp_path) -> None:
    model = tiny_model("llama")
    path = model.mlp_out(1)
    model.parameter(path).data[0, 0] = torch.nan
    recipe = correction_recipe("m", "memit", tmp_path / "out", 2, overrides=["method.layers=[0,1]"])
    doors = (
        lambda: errata.edit(model, tiny_facts(2), "memit", layers=[0, 1]),
        lambda: correct(tiny_facts(2), recipe, tmp_path / "out", model),
        lambda: open_session(recipe, model=model),
        lambda: trace(model, tiny_facts(1), torch.Generator()),
    )
    for door in doors:
        with pytest.raises(ModelError, match=rf"already answers NaN \(first in {path}, whose weight holds NaN\)"):
            door()


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (lambda file: list(TextSource(source=str(file)).texts()), StatisticsError),
        (lambda file: list(local_records(file)), EditDataError),
        (lambda file: load_recipe(file), ConfigError),
        (lambda file: open_source(str(file), "perplexity"), ConfigError),
        (lambda file: canary_lines(tiny_model("gpt2"), str(file), 4, ()), ConfigError),
        (lambda file: apply_order([], file, "0"), ConfigError),
        (lambda file: _lines(file), ConfigError),
    ],
)
def test_another_encoding_is_named_with_file_and_line(read, error: type[ErrataError], tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_bytes('{"text": "a"}\n{"text": "Inés"}\n'.encode("latin1"))
    with pytest.raises(error, match=r"text\.jsonl, line 2: the byte 0xE9 is not UTF-8.*iconv -f latin1"):
        read(file)
    if read.__code__.co_names[0] not in ("list",):
        with pytest.raises(error, match=r"is a directory|cannot be read"):
            read(tmp_path)


def test_a_statistics_source_is_checked_without_reading_it(tmp_path, monkeypatch) -> None:
    with pytest.raises(StatisticsError, match="is a directory"):
        TextSource(source=str(tmp_path)).check()
    for missing in ("/tmp/none.v2", "notes.txt", "data/notes.jsonl", "./a/b", "a/b/c"):
        with pytest.raises(StatisticsError, match="does not exist"):
            TextSource(source=missing).check()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    wikipedia = TextSource(source="wikimedia/wikipedia:20231101.en")
    assert "must be fetched from the hub" in wikipedia.check()
    (tmp_path / "wikimedia___wikipedia").mkdir()
    assert "local cache" in wikipedia.check()
    assert "must" not in wikipedia.check()
    assert "hub" in TextSource(source="wikitext:wikitext-2.raw-v1").check()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StatisticsError, match="no data set that can be read from the hub"):
        list(TextSource(source="nobody/nothing:1.0").texts())
    recipe = load_recipe(
        {"model": {"name": "lab-s"}, "method": {"name": "memit"}, "edits": {"dataset": "lab", "n": 2}},
        ["method.statistics.source=gone.txt"],
    )
    with pytest.raises(StatisticsError, match=r"gone\.txt does not exist"):
        plan(recipe, tmp_path / "out")


def test_too_little_text_is_told_with_what_is_needed(tmp_path) -> None:
    model, told = tiny_model("llama"), []
    width = model.weight(model.mlp_out(0)).shape[1]
    store = StatisticsStore(tell=told.append)

    def moment(text: str):
        (tmp_path / "text.txt").write_text(text)
        return store.second_moments(model, [0], TextSource(source=str(tmp_path / "text.txt")))[0]

    few = moment("a b c")
    assert f"C has {width:,} dimensions" in told[0]
    assert f"At least {10 * width:,} tokens" in told[0]
    with pytest.raises(StatisticsError, match="too few to invert it"):
        few.ridged(0.0)
    few.ridged(1e-3)
    moment("\n".join(["The mother tongue of Ada is"] * 500))
    assert "the text repeats itself" in told[1]
    moment("\n".join(dict.fromkeys(tiny_text() * 3)))
    assert len(told) == 2 or "repeats" not in told[2]
