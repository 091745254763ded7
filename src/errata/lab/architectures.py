"""The two architectures of the lab, in plain transformers classes."""

from typing import Any

from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from errata.lab.models import LabSpec

__all__ = ["blocks_of", "new_model"]


def new_model(spec: LabSpec, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Make an untrained model.

    Args:
        spec: its architecture and size.
        tokenizer: whose vocabulary it gets.
    """
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        # The usual 0.02 is for widths of 768 and more; here it makes the plateau before attention forms longer.
        "initializer_range": 0.06,
    }
    if spec.architecture == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                n_positions=2 * spec.length,
                n_embd=spec.width,
                n_layer=spec.layers,
                n_head=spec.heads,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                **common,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            max_position_embeddings=2 * spec.length,
            hidden_size=spec.width,
            intermediate_size=3 * spec.width,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            num_key_value_heads=spec.heads,
            tie_word_embeddings=True,
            **common,
        )
    )


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """Return a lab model's blocks.

    Args:
        model: of either architecture.
    """
    blocks = model.transformer.h if isinstance(model, GPT2LMHeadModel) else model.model.layers
    assert isinstance(blocks, nn.ModuleList)
    return blocks
