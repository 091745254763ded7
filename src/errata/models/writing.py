"""Let a model write text of its own: sampled token rows, for statistics that need neither a file nor a hub."""

from copy import deepcopy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from errata.models.editable import EditableModel
from errata.models.hooks import cache_to
from errata.models.replay import multiplies_bfloat16

__all__ = ["beginning", "written", "written_in"]

_WORTH_A_COPY, _MOST_COPIED = 2**26, 2**32  # bytes of a float32 model
_BLOCK = 512  # tokens whose probabilities are cumulated together


def beginning(model: EditableModel) -> int:
    """Return the token with which a text of the model begins: its beginning-of-text token, or the one that ends texts.

    GPT-2 was trained with its end-of-text token between documents. A tokenizer that has neither begins with token 0.
    """
    tokenizer = model.tokenizer
    return next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if isinstance(i, int)), 0)


@torch.no_grad()
def written(model: EditableModel, rows: int, tokens: int, generator: torch.Generator) -> list[list[int]]:
    """Sample token rows from the model's own distribution, at temperature 1, each behind the beginning of a text.

    A small float32 model writes in bfloat16 where its device multiplies so: the text is as much its own, in half the
    time.

    Args:
        model: the model; read only.
        rows: how many rows.
        tokens: tokens of each row, the beginning included.
        generator: on the CPU; what is drawn depends on it, on the model and on the device alone.
    """
    writer = _writer(model)
    last = torch.full((rows, 1), beginning(model))
    made: list[Tensor] = [last]
    cache = DynamicCache(config=model.model.config)
    for _ in range(tokens - 1):
        logits = writer(
            input_ids=last.to(model.device), use_cache=True, logits_to_keep=1, **cache_to(model.model, cache)
        ).logits[:, -1]
        last = _drawn(logits.cpu(), generator)
        made.append(last)
    return torch.cat(made, 1).tolist()


def written_in(model: EditableModel) -> torch.dtype:
    """Return the precision in which a model writes: bfloat16 where that is quicker and takes little room."""
    size = sum(p.numel() * p.itemsize for p in model.model.parameters())
    plain = model.dtype == torch.float32 and not any(p.is_meta for p in model.model.parameters())
    if plain and _WORTH_A_COPY <= size <= _MOST_COPIED and multiplies_bfloat16(model.device.type):
        return torch.bfloat16
    return model.dtype


def _writer(model: EditableModel) -> nn.Module:
    """Return what writes: the model itself, or a copy of it."""
    if (precision := written_in(model)) == model.dtype:
        return model.model
    copy: nn.Module = deepcopy(model.model)
    return copy.to(precision)


def _drawn(logits: Float[Tensor, "row vocab"], generator: torch.Generator) -> Int[Tensor, "row 1"]:
    """Draw a token of each row by its probability.

    One uniform number a row is looked up in cumulated probabilities, first those of blocks of tokens and then those
    within one block: of 262,144 words that takes a fifth of the time of cumulating all, and a hundredth of
    torch.multinomial's. A dead model answers NaN, and then token 0 stands; its keys are NaN too, and statistics say so.
    """
    vocab = logits.shape[-1]
    probabilities = torch.softmax(logits.float(), -1)
    blocks = torch.nn.functional.pad(probabilities, (0, -vocab % _BLOCK)).reshape(len(logits), -1, _BLOCK)
    mass = blocks.sum(-1).double()
    cumulated = mass.cumsum(-1)
    uniform = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64) * cumulated[:, -1:]
    block = torch.searchsorted(cumulated, uniform).clamp(max=mass.shape[-1] - 1)
    left = uniform - (cumulated - mass).gather(1, block)
    within = blocks[torch.arange(len(logits)), block[:, 0]].double().cumsum(-1)
    token = block * _BLOCK + torch.searchsorted(within, left).clamp(max=_BLOCK - 1)
    return torch.where(cumulated[:, -1:].isnan(), 0, token.clamp(max=vocab - 1))
