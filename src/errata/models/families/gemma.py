"""Gemma: laid out like Llama; embeddings scaled by √d and shared with the head."""

from dataclasses import replace

from errata.models.families import llama

FAMILY = replace(llama.FAMILY, name="gemma", model_types=("gemma",), begins=True)
