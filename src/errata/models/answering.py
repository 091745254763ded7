"""Whether an unedited model answers at all: what is dead before the first edit is no finding about editing."""

import torch
from torch import Tensor, nn

from errata.errors import ModelError
from errata.models.editable import EditableModel

__all__ = ["check_answers"]

_TEXT = "The capital of France is"


@torch.no_grad()
def check_answers(model: EditableModel) -> None:
    """Refuse a model whose prediction is not a number, before anything is computed with it; an outline passes.

    Raises:
        ModelError: names the first module whose output is NaN, or the parameter that makes it so.
    """
    if model.device.type == "meta":
        return
    with model.bare():
        ids = model.encode([_TEXT])[0][: model.positions] or [model.pad_id]
    given = torch.tensor([ids], device=model.device)
    logits: Tensor = model.model(input_ids=given, use_cache=False, logits_to_keep=1).logits
    if not bool(torch.isnan(logits).any()):
        return
    advice = "Load it in float32" if model.dtype in (torch.float16, torch.bfloat16) else "Fetch or write its files anew"
    raise ModelError(
        f"the unedited model {model.name} already answers NaN (first in {_first(model, given)}): nothing can be taught "
        f"to it or measured on it. {advice}, or give another model."
    )


def _first(model: EditableModel, given: Tensor) -> str:
    """Return the first module whose output is NaN in the order of the computation, the innermost one of them."""
    seen: list[str] = []

    def hook(path: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def look(_module: nn.Module, _args: object, output: object) -> None:
            found = output if isinstance(output, Tensor) else output[0] if isinstance(output, tuple) else None
            if isinstance(found, Tensor) and found.is_floating_point() and bool(torch.isnan(found).any()):
                seen.append(path)

        return module.register_forward_hook(look)

    handles = [hook(path, module) for path, module in model.model.named_modules() if path]
    try:
        model.model(input_ids=given, use_cache=False, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        return "the logits"
    own = model.module(seen[0]).named_parameters(recurse=False)
    dead = [name for name, parameter in own if not parameter.is_meta and bool(torch.isnan(parameter).any())]
    return f"{seen[0]}, whose {dead[0]} holds NaN" if dead else seen[0]
