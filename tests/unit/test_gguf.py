"""GGUF files: read as plain numbers, with tokenizer and template; saved and loaded again the same."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from torch import Tensor

import errata
from errata.errors import MissingExtraError, ModelError
from errata.models import load, outline
from errata.models.known import KNOWN_MODELS
from tiny import tiny_model

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
TEXT = "Ada Abend was born in Oslo"
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
}


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Return a query or key matrix as llama.cpp lays it out: the halves of each head interleaved."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write(file: Path, kind: GGMLQuantizationType, leave_out: str = "") -> dict[str, Tensor]:
    """Write a tiny Llama, tied, and return its weights as they stand in the file, by transformers' names."""
    model = tiny_model(
        "llama", hidden_size=64, intermediate_size=96, max_position_embeddings=64, tie_word_embeddings=True
    )
    config, tokenizer = model.model.config, model.tokenizer
    writer = GGUFWriter(str(file), "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3, *[1] * (len(words) - 1)])
    writer.add_token_merges([" ".join(pair) for pair in merges(tokenizer)])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)
    stored = {}
    for name, weight in model.model.state_dict().items():
        if name == "lm_head.weight" or name == leave_out:
            continue
        path = name.removesuffix(".weight")
        _, _, inside = path.removeprefix("model.layers.").partition(".")
        block = f"blk.{path.split('.')[2]}." if path.startswith("model.layers.") else ""
        values = weight.numpy()
        heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(inside)
        laid = permuted(values, heads) if heads else values
        own = f"{block}{NAMES[inside if block else path]}.weight"
        if weight.ndim == 1:
            writer.add_tensor(own, laid)
            stored[name] = weight
            continue
        packed = quantize(laid, kind)
        writer.add_tensor(own, packed, raw_dtype=kind)
        # Quantised by rows, so that it does not matter in which order these lie.
        stored[name] = torch.from_numpy(dequantize(quantize(values, kind), kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def merges(tokenizer) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0])
def test_a_quantised_file_is_read_as_plain_numbers_and_saved_as_a_model(kind, tmp_path: Path) -> None:
    stored = write(tmp_path / "tiny.gguf", kind)
    told: list[str] = []
    model = load(tmp_path / "tiny.gguf", tell=told.append)
    state = model.model.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in stored.items())
    assert torch.equal(state["lm_head.weight"], stored["model.embed_tokens.weight"])
    assert "dequantised to float32" in told[0]
    assert "GB of memory" in told[0]
    assert model.tokenizer.chat_template == TEMPLATE
    assert model.encode([TEXT]) == tiny_model("llama").encode([TEXT])

    plain = tiny_model("llama", hidden_size=64, intermediate_size=96, max_position_embeddings=64)
    plain.model.load_state_dict({**stored, "lm_head.weight": stored["model.embed_tokens.weight"]})
    ids = torch.tensor(model.encode([TEXT]))
    assert torch.equal(model.model(ids).logits, plain.model(ids).logits)

    model.model.save_pretrained(tmp_path / "saved")
    model.tokenizer.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert torch.equal(again.model(ids).logits, model.model(ids).logits)
    assert again.encode([TEXT]) == model.encode([TEXT])
    assert again.tokenizer.chat_template == TEMPLATE


def test_an_outline_has_the_file_s_shapes_and_the_precision_is_given(tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf", GGMLQuantizationType.Q8_0)
    drawn = outline(tmp_path / "tiny.gguf")
    assert drawn.model.device.type == "meta"
    assert drawn.weight(drawn.mlp_out(1)).shape == (64, 96)
    assert load(tmp_path / "tiny.gguf", dtype="bfloat16").dtype == torch.bfloat16


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write(file, GGMLQuantizationType.Q8_0)
    whole = file.read_bytes()
    for content in (b"", b"no GGUF at all", whole[:300], whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(ModelError, match=r"tiny\.gguf: the GGUF file cannot be read; it is damaged") as caught:
            load(file)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"there is no file .*other\.gguf"):
        load(tmp_path / "other.gguf")
    with pytest.raises(ModelError, match=r"without config\.json.*Give the file: .*tiny\.gguf"):
        load(tmp_path)


def test_a_file_without_a_weight_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf", GGMLQuantizationType.Q8_0, leave_out="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(ModelError, match=r"lack 1 of the parameters.*model\.layers\.1\.mlp\.up_proj\.weight"):
        load(tmp_path / "tiny.gguf")


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("errata.models.gguf.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"errata\[gguf\]"):
        load(tmp_path / "tiny.gguf")


def test_a_known_name_is_found_in_its_cache_and_says_else_how_to_make_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ERRATA_MODELS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("errata.models.locating.cached", lambda name: None)
    known = KNOWN_MODELS["smollm2-135m"]
    with pytest.raises(ModelError, match=r"make models MODELS=smollm2-135m.*HuggingFaceTB/SmolLM2-135M-Instruct"):
        errata.load(known.name)
    model = tiny_model("llama")
    model.model.save_pretrained(known.directory)
    model.tokenizer.save_pretrained(known.directory)
    assert errata.load(known.name).name == known.name
    assert outline(known.name).n_layers == 3


def test_no_library_s_own_bar_or_remark_is_seen(tmp_path: Path, capfd) -> None:
    write(tmp_path / "tiny.gguf", GGMLQuantizationType.Q8_0)
    load(tmp_path / "tiny.gguf", tell=lambda message: None)
    out = capfd.readouterr()
    assert out.out + out.err == ""
