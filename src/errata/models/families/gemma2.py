"""Gemma 2 and the text models of Gemma 3: what W writes passes a norm before it enters the residual stream."""

from dataclasses import replace

from errata.models.families import llama

FAMILY = replace(
    llama.FAMILY,
    name="gemma2",
    model_types=("gemma2", "gemma3_text"),
    mlp_norm="post_feedforward_layernorm",
    begins=True,
    logit_cap="final_logit_softcapping",
)
