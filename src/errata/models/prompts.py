"""Know where each row's prompt ends while the model reads it: what methods beside the weights ask at that place."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from errata.models.editable import EditableModel
from errata.models.hooks import cache_given, hidden_of, with_hidden

__all__ = ["NO_PROMPT", "PromptSpans", "answer_at"]

NO_PROMPT = -1
"""Stands for the prompt's end in a row that holds none: a part of a prompt, or what follows one."""


@dataclass(frozen=True)
class PromptSpans:
    """Say where the prompt of each row lies in what is being read.

    Args:
        begins: the index of its first token.
        ends: the index of its last one; `NO_PROMPT` in a row without one.
    """

    begins: Int[Tensor, " row"]
    ends: Int[Tensor, " row"]


def answer_at(
    model: EditableModel, path: str, change: Callable[[Tensor, Tensor, PromptSpans], Tensor]
) -> Callable[[], None]:
    """Let a module answer by `change` until the returned function is called.

    Args:
        model: the model; no weight is touched.
        path: the module.
        change: a function of the module's input, its output and where the prompts lie, which returns the new output.
    """
    found = _FoundSpans(model)

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
        received = args[0] if args else kwargs["hidden_states"]
        return with_hidden(output, change(received, hidden_of(output), found.of(received)))

    # The model's own pass begins here, with mask and cache; the module inside sees hidden states alone.
    handles = [
        model.model.register_forward_pre_hook(found.note, with_kwargs=True),
        model.module(path).register_forward_hook(hook, with_kwargs=True),
    ]

    def detach() -> None:
        for handle in handles:
            handle.remove()

    return detach


class _FoundSpans:
    """Find prompts in the forward pass under way: as `EditableModel.reading` announces them, else by the mask.

    Unannounced, a row's prompt ends at its last token that is no padding, on whichever side the padding is; a single
    token that continues a cache is an answer's and holds no prompt's end.
    """

    def __init__(self, model: EditableModel) -> None:
        self._model = model
        self._mask: Tensor | None = None
        self._continues = False

    def note(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._mask = kwargs.get("attention_mask")
        cache = cache_given(kwargs)
        self._continues = cache is not None and cache.get_seq_length() > 0

    def of(self, received: Tensor) -> PromptSpans:
        rows, width = received.shape[:2]
        mask = self._mask
        if mask is None or mask.ndim != 2 or len(mask) != rows:
            mask = received.new_ones(rows, width)
        real = mask[:, -width:].long().to(received.device)
        return PromptSpans(real.argmax(-1), self._ends(received, real))

    def _ends(self, received: Tensor, real: Tensor) -> Int[Tensor, " row"]:
        rows, width = received.shape[:2]
        if (known := self._model.prompt_ends) is not None and len(known) == rows:
            return torch.tensor(known, device=received.device)
        if self._continues and width == 1:
            return torch.full((rows,), NO_PROMPT, device=received.device)
        return width - 1 - real.flip(-1).argmax(-1)
