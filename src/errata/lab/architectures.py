"""The two architectures of the lab, in plain transformers classes, and what a training begins with."""

from random import Random
from typing import Any

import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from errata.lab.corpus import plain_documents
from errata.lab.dialogue import CHAT_TEMPLATE
from errata.lab.models import LabSpec, asset_path
from errata.lab.tokenizer import train_tokenizer
from errata.lab.world import World

__all__ = ["beginning", "blocks_of", "feed_forward_out", "new_model"]


def beginning(spec: LabSpec, world: World) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return the model and the tokenizer with which a training begins: new ones, or those of a shipped model.

    Args:
        spec: its recipe.
        world: whose words a new tokenizer is made for.
    """
    if not spec.start:
        bos = spec.architecture == "llama"
        tokenizer = train_tokenizer(plain_documents(world, Random("tokenizer"), 4000), bos=bos)
        return new_model(spec, tokenizer), tokenizer
    path = asset_path(spec.start)
    model = (GPT2LMHeadModel if spec.architecture == "gpt2" else LlamaForCausalLM).from_pretrained(
        path, dtype=torch.float32
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    if spec.turns:
        tokenizer.chat_template = CHAT_TEMPLATE
    return model, tokenizer


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


def feed_forward_out(model: PreTrainedModel) -> str:
    """Name the projection, inside a block, whose input is the key of an edit.

    Args:
        model: of either architecture.
    """
    return "mlp.c_proj" if isinstance(model, GPT2LMHeadModel) else "mlp.down_proj"
