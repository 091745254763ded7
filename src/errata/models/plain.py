"""Which models can be edited as they are: plain weights, no adapter, no wrapper; the others are refused by name."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from errata.errors import ModelError

__all__ = ["check_config", "plain_model", "quantised"]

_WRAPPED = {"_orig_mod": "torch.compile", "module": "a parallel wrapper"}
"""Under which attribute the usual wrappers keep the model."""


def quantised(name: str, how: str) -> ModelError:
    """Return the refusal of quantised weights."""
    return ModelError(
        f"{name}: its weights are quantised ({how}); an edit needs plain numbers. Load the unquantised model that it "
        f"was made from, or a GGUF file of it, which is dequantised when it is read. Or dequantise it once with "
        f"transformers (model.dequantize()) and save it with save_pretrained()."
    )


def check_config(config: PreTrainedConfig, name: str) -> None:
    """Refuse a configuration that says that the weights are quantised.

    Raises:
        ModelError: when it does; names the method.
    """
    for key in ("quantization_config", "compression_config"):
        said: Any = getattr(config, key, None)
        if said:
            entries = said if isinstance(said, Mapping) else vars(said)
            method = entries.get("quant_method") or "by a method that config.json does not name"
            raise quantised(name, str(getattr(method, "value", method)))


def plain_model(model: nn.Module, name: str) -> PreTrainedModel:
    """Return the model if it can be edited as it is.

    Args:
        model: what a user took for one.
        name: what to call it in messages.

    Raises:
        ModelError: when it carries an adapter, is wrapped or quantised, or has no head; says what to do.
    """
    if any(type(part).__module__.partition(".")[0] == "peft" for part in model.modules()):
        raise ModelError(
            f"{name}: the model carries an adapter (peft). Merge or unload the adapter first: "
            f"model.merge_and_unload() keeps what it has learned, model.unload() leaves it out. Then give the plain "
            f"model."
        )
    if not isinstance(model, PreTrainedModel):
        inside = next((key for key in _WRAPPED if isinstance(getattr(model, key, None), nn.Module)), None)
        raise ModelError(
            f"{name}: {type(model).__name__} is no model of transformers (PreTrainedModel)."
            + (f" It comes from {_WRAPPED[inside]}: give the model inside, model.{inside}." if inside else "")
        )
    quantizer: Any = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        method = getattr(quantizer.quantization_config, "quant_method", "unknown")
        if str(getattr(method, "value", method)) == "gguf":
            raise ModelError(
                f"{name}: transformers keeps a model that it has read from a GGUF file as a quantised one, which "
                f"cannot be saved. Load it with errata.load('FILE.gguf')."
            )
    check_config(model.config, name)
    odd = {p.dtype for p in model.parameters() if not p.is_floating_point() or p.dtype.itemsize < 2}
    if odd:
        raise quantised(name, f"stored as {', '.join(sorted(map(str, odd)))}")
    if model.get_output_embeddings() is None:  # type: ignore[no-untyped-call]
        raise ModelError(
            f"{name}: {type(model).__name__} has no language-model head. Load it with AutoModelForCausalLM."
        )
    return model
