"""Read a model's head where it is asked for alone: with a large vocabulary it costs more than all blocks together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from errata.models.editable import EditableModel
from errata.models.hooks import capture
from errata.models.kernels import kernels_for, running

__all__ = ["LOGITS", "head_at", "log_probabilities", "logits_at", "logits_in_parts", "states_at"]

LOGITS = 2**24
"""How many logits are computed together at most: 64 MiB in float32."""


@contextmanager
def head_at(model: EditableModel, places: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Let passes inside the block compute logits at (row, position) places alone, in one line.

    The hidden states are picked where they enter the head, inside the model's own forward: whatever an architecture
    does to its logits afterwards (scaling, capping) still happens.
    """
    picked: Int[Tensor, "n 2"] = torch.tensor(places, device=model.device)

    def pick(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (args[0][picked[:, 0], picked[:, 1]][None],)

    handle = model.head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def states_at(
    model: EditableModel, inputs: Sequence[Sequence[int]], places: Sequence[tuple[int, int]]
) -> Float[Tensor, "n d"]:
    """Return what the last block puts out at (row, position) places; the head is not run."""
    tokens = model.pad(inputs)
    kernels = kernels_for([model.block(i) for i in range(model.n_layers)], None)
    top = model.block_path(model.n_layers - 1)
    with running(kernels), model.begun(inputs) if model.begun else nullcontext(), capture(model.model, [top]) as seen:
        model.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, use_cache=False)
    picked: Int[Tensor, "n 2"] = torch.tensor(places, device=seen[top].output.device)
    return seen[top].output[picked[:, 0], picked[:, 1]]


def logits_at(
    model: EditableModel, inputs: Sequence[Sequence[int]], places: Sequence[tuple[int, int]]
) -> Float[Tensor, "n vocab"]:
    """Return logits at a few (row, position) places together, in float32 at least."""
    logits = model.logits(states_at(model, inputs, places))
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def logits_in_parts(
    model: EditableModel, states: Float[Tensor, "n d"]
) -> Iterator[tuple[range, Float[Tensor, "part vocab"]]]:
    """Yield the logits of the last block's outputs, in float32 at least, with which rows they are: `LOGITS` a time."""
    step = max(1, LOGITS // int(model.model.config.vocab_size))
    for i in range(0, len(states), step):
        logits = model.logits(states[i : i + step])
        yield range(i, min(i + step, len(states))), logits.to(torch.promote_types(logits.dtype, torch.float32))


def log_probabilities(
    model: EditableModel, states: Float[Tensor, "n d"], wanted: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return log P of one token behind each of the last block's outputs."""
    parts = logits_in_parts(model, states)
    found = [logits.log_softmax(-1).gather(1, wanted[rows.start : rows.stop, None])[:, 0] for rows, logits in parts]
    return torch.cat(found).double()
