"""Run only the layers above an edit: what lies below is constant while a value is optimised."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from errata.models.editable import EditableModel
from errata.models.hooks import hidden_of

__all__ = ["UpperLayers"]


class UpperLayers:
    """Hold a batch's hidden states after block `layer` and run the blocks above it from there.

    The arguments that the model itself hands to each block (masks, positions) are recorded in one ordinary pass, so
    nothing about the architecture is repeated here.

    Args:
        model: the model.
        layer: the block l whose output is held; blocks l+1 and up are run by `logits`.
        input_ids: right-padded tokens.
        attention_mask: 1 for tokens, 0 for padding.
        watch: module paths at or below the block whose outputs are kept as well, in `outputs`.
    """

    def __init__(
        self,
        model: EditableModel,
        layer: int,
        input_ids: Int[Tensor, "prompt pos"],
        attention_mask: Int[Tensor, "prompt pos"],
        watch: tuple[str, ...] = (),
    ) -> None:
        self._blocks = [model.block(i) for i in range(layer + 1, model.n_layers)]
        self._norm = model.module(model.family.final_norm)
        self._head = model.head
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.outputs: dict[str, Tensor] = {}

        def record_call(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            rest = {k: v for k, v in kwargs.items() if k != "hidden_states"}
            self._calls.append((args[1:], rest))

        def record_output(path: str) -> Any:
            def keep(_module: nn.Module, _args: Any, output: Any) -> None:
                self.outputs[path] = hidden_of(output)

            return keep

        block = f"{model.family.blocks}.{layer}"
        handles = [b.register_forward_pre_hook(record_call, with_kwargs=True) for b in self._blocks]
        handles += [model.module(p).register_forward_hook(record_output(p)) for p in {block, *watch}]
        try:
            with torch.no_grad():
                model.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, logits_to_keep=1)
        finally:
            for handle in handles:
                handle.remove()
        self.hidden: Float[Tensor, "prompt pos d"] = self.outputs[block]

    def logits(
        self, hidden: Float[Tensor, "prompt pos d"], rows: Int[Tensor, " n"], positions: Int[Tensor, " n"]
    ) -> Float[Tensor, "n vocab"]:
        """Return the logits at (row, position) pairs when block `layer` had returned `hidden`."""
        for block, (args, kwargs) in zip(self._blocks, self._calls, strict=True):
            hidden = hidden_of(block(hidden, *args, **kwargs))
        picked: Tensor = self._head(self._norm(hidden[rows, positions]))
        return picked
