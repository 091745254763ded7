"""Let a model write text of its own: sampled token rows, for statistics that need neither a file nor a hub."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from errata.models.editable import EditableModel
from errata.models.hooks import cache_to

__all__ = ["beginning", "written"]


def beginning(model: EditableModel) -> int:
    """Return the token with which a text of the model begins: its beginning-of-text token, or the one that ends texts.

    GPT-2 was trained with its end-of-text token between documents. A tokenizer that has neither begins with token 0.
    """
    tokenizer = model.tokenizer
    return next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if isinstance(i, int)), 0)


@torch.no_grad()
def written(model: EditableModel, rows: int, tokens: int, generator: torch.Generator) -> list[list[int]]:
    """Sample token rows from the model's own distribution, at temperature 1, each behind the beginning of a text.

    Args:
        model: the model; read only.
        rows: how many rows.
        tokens: tokens of each row, the beginning included.
        generator: on the CPU; what is drawn depends on it and on the model alone.
    """
    last = torch.full((rows, 1), beginning(model))
    made: list[Tensor] = [last]
    cache = DynamicCache(config=model.model.config)
    for _ in range(tokens - 1):
        logits = model.model(
            input_ids=last.to(model.device), use_cache=True, logits_to_keep=1, **cache_to(model.model, cache)
        ).logits[:, -1]
        last = _drawn(logits.cpu(), generator)
        made.append(last)
    return torch.cat(made, 1).tolist()


def _drawn(logits: Float[Tensor, "row vocab"], generator: torch.Generator) -> Int[Tensor, "row 1"]:
    """Draw a token of each row by its probability.

    By the cumulated probabilities and one uniform number a row: of 49,152 words torch.multinomial takes ten times as
    long. A dead model answers NaN, and then token 0 stands; its keys are NaN too, and statistics say so.
    """
    cumulated = torch.softmax(logits.float(), -1).double().cumsum(-1)
    uniform = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64)
    drawn = torch.searchsorted(cumulated, uniform * cumulated[:, -1:])
    return drawn.clamp(max=logits.shape[-1] - 1)
