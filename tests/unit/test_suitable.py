"""Models and tokenizers that cannot be used as they are: handled, said, or refused by name, in every way in."""

import json
import logging
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import LlamaModel

import errata
from errata.edits import EditStream
from errata.errors import EditDataError, ErrataError, ModelError
from errata.models import EditableModel, load, outline
from errata.models.locating import foreign_errors
from errata.studies.correct import read_facts, readable
from errata.studies.recipe import load_recipe
from errata.studies.session import open_session
from tiny import tiny_config, tiny_facts, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
QUANTISED = {
    "bitsandbytes": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "gptq": {"bits": 4, "group_size": 128},
    "awq": {"bits": 4, "group_size": 128, "version": "gemm"},
    "compressed-tensors": {"format": "pack-quantized", "config_groups": {}},
    "fp8": {"activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    "some-new-one": {},
}


def saved(model: EditableModel, folder: Path) -> Path:
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def test_no_end_token_stands_inside_what_is_read(tmp_path: Path) -> None:
    usual, ending = tiny_model("llama"), tiny_model("llama")
    ending.tokenizer.add_special_tokens({"eos_token": "<0>"})
    eos = ending.tokenizer.eos_token_id
    ending.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A <0>", special_tokens=[("<|endoftext|>", 0), ("<0>", eos)]
    )
    assert ending.tokenizer("a")["input_ids"][-1] == eos
    ending.model.resize_token_embeddings(eos + 1)
    told: list[str] = []
    for model in (
        EditableModel(ending.model, ending.tokenizer, "own", tell=told.append),
        load(saved(ending, tmp_path), tell=told.append),
    ):
        texts = ["Ada Abend was born in", "Inés 王"]
        assert model.encode(texts) == usual.encode(texts)
        assert model.encode_target("Oslo") == usual.encode_target("Oslo")
        assert model.subject_span("", "Ada Bell", " is") == usual.subject_span("", "Ada Bell", " is")
    assert [line.partition(": ")[2] for line in told] == [
        "its tokenizer ends every text with '<0>'. Prompts are read without it."
    ] * 2


def test_a_missing_beginning_token_is_said_where_the_family_needs_one() -> None:
    bare = tiny_model("gpt2").tokenizer
    for family, needed in (("llama", False), ("gemma", True), ("gemma3_text", True)):
        told: list[str] = []
        EditableModel(tiny_model(family).model, bare, family, tell=told.append)
        assert any("no beginning token" in line for line in told) == needed


def test_remarks_are_logged_where_nothing_receives_them(caplog) -> None:
    model = tiny_model("gpt2")
    model.tokenizer.add_tokens(["Quaxolotl"])
    with caplog.at_level(logging.WARNING, "errata"):
        EditableModel(model.model, model.tokenizer, "own")
    assert "no embedding: Quaxolotl" in caplog.text


@pytest.fixture
def with_added(tmp_path: Path) -> Path:
    model = tiny_model("llama")
    model.tokenizer.add_tokens(["Quaxolotl", "donkeyfish"])
    return saved(model, tmp_path / "added")


def test_a_record_with_a_token_without_an_embedding_is_named_by_its_line(with_added: Path, tmp_path: Path) -> None:
    told: list[str] = []
    model = load(with_added, tell=told.append)
    assert "2 tokens for which the model has no embedding: Quaxolotl, donkeyfish" in told[0]
    good, *bad = ({"subject": "Ada", "prompt": "{} speaks", "target_new": "Greek"} for _ in range(5))
    bad[0]["target_new"] = "Quaxolotl"
    bad[1]["subject"] = "Quaxolotl"
    bad[2]["paraphrase_prompts"] = ["The pet donkeyfish of Ada speaks"]
    bad[3]["checks"] = [{"kind": "locality", "prompt": "Ada likes", "answers": ["Quaxolotl"]}]
    file = tmp_path / "facts.jsonl"
    file.write_text("".join(json.dumps(fact) + "\n" for fact in [good, *bad]))
    places: dict[str, str] = {}
    facts = read_facts(file, places=places)
    with pytest.raises(EditDataError, match="4 of 5 records cannot be edited") as caught:
        readable(model, facts, skip_bad=False, places=places)
    for line in (2, 3, 4, 5):
        assert f"line {line} (" in str(caught.value)
    assert readable(model, facts, skip_bad=True) == facts[:1]

    recipe = load_recipe({"model": {"name": str(with_added)}, "method": {"name": "memit"}, "edits": {"dataset": "lab"}})
    stream = EditStream(tuple(facts), 1)
    for drawn in (model, outline(with_added)):
        with pytest.raises(EditDataError, match=r"fact '2' .*'Quaxolotl'[\s\S]*4 of 5 facts cannot be edited"):
            open_session(recipe, model=drawn, stream=stream)
    with pytest.raises(EditDataError, match=r"fact '1'.*has embeddings for the first 420 alone"):
        errata.edit(model, bad[0])


@pytest.mark.parametrize("method", QUANTISED)
def test_quantised_weights_are_refused_by_name(method: str, tmp_path: Path) -> None:
    model = tiny_model("llama")
    saved(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    said = {"quant_method": method, **QUANTISED[method]}
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": said}))
    model.model.config.quantization_config = said
    for way in (load, outline, lambda folder: EditableModel(model.model, model.tokenizer)):
        with pytest.raises(ModelError, match=rf"quantised \({method}\).*Load the unquantised.*dequantize\(\)"):
            way(tmp_path)


def test_weights_stored_in_eight_bits_are_refused_whatever_the_configuration_says(tmp_path: Path) -> None:
    model = tiny_model("llama")
    saved(model, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    small = state[name].to(torch.float8_e4m3fn)
    save_file({**state, name: small}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"quantised .*F8_E4M3"):
        load(tmp_path)
    model.model.get_submodule(name.removesuffix(".weight")).weight = nn.Parameter(small, requires_grad=False)
    with pytest.raises(ModelError, match=r"quantised .*float8_e4m3fn"):
        EditableModel(model.model, model.tokenizer)


def test_an_adapter_is_to_be_merged_or_unloaded_first(tmp_path: Path) -> None:
    model = tiny_model("llama")
    adapted = get_peft_model(model.model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for way in (
        lambda: EditableModel(adapted, model.tokenizer),
        lambda: EditableModel(adapted.base_model.model, model.tokenizer),  # its layers carry it all the same
        lambda: errata.edit(adapted, tiny_facts(1)),  # type: ignore[arg-type]
    ):
        with pytest.raises(ModelError, match=r"Merge or unload the adapter first: model\.merge_and_unload\(\)"):
            way()
    adapted.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"holds an adapter .*merge_and_unload"):
        load(tmp_path)
    assert EditableModel(adapted.merge_and_unload(), model.tokenizer).n_layers == 3


def test_a_wrapper_or_a_model_without_a_head_says_what_to_give() -> None:
    model = tiny_model("llama")
    with pytest.raises(ModelError, match=r"DataParallel is no model.*give the model inside, model\.module"):
        EditableModel(nn.DataParallel(model.model), model.tokenizer)
    with pytest.raises(ModelError, match=r"LlamaModel has no language-model head.*AutoModelForCausalLM"):
        EditableModel(LlamaModel(tiny_config("llama")), model.tokenizer)


@pytest.mark.parametrize("error", [ImportError("no"), RuntimeError("two\nlines"), KeyError("k"), OSError("x")])
def test_whatever_a_library_raises_is_a_model_error_of_one_line(error: Exception, tmp_path: Path, monkeypatch) -> None:
    saved(tiny_model("gpt2"), tmp_path)
    fail = MagicMock(side_effect=error)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(ModelError, match="the model cannot be loaded: ") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_a_bug_of_ours_keeps_its_own_traceback() -> None:
    with pytest.raises(ErrataError, match="own"), foreign_errors("x"):
        raise EditDataError("own")
    ours: dict[str, object] = {"__name__": "errata.models.somewhere"}
    exec("def broken(): return {}['absent']", ours)
    with pytest.raises(KeyError, match="absent"), foreign_errors("x"):
        ours["broken"]()  # type: ignore[operator]
