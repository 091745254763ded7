"""The two losses that hypernetworks are trained by: the edit must take, everything else must stay."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float
from torch import Tensor

from errata.editors.gradients import mean_by_edit
from errata.models import EditableModel
from errata.training.examples import Example

__all__ = ["edit_and_locality"]


def edit_and_locality(
    model: EditableModel,
    examples: Sequence[Example],
    edited: AbstractContextManager[None],
) -> tuple[Float[Tensor, " edit"], Float[Tensor, " edit"], Float[Tensor, ""]]:
    """Return for each edit L_e = −log p_θ̃(y_e | x_e') and L_loc = KL(p_θ(·|x_loc) ‖ p_θ̃(·|x_loc)) (2110.11309, eq. 4).

    Both are means over tokens: of the targets, and of all positions of the locality texts.

    Args:
        model: the unedited model.
        examples: the edits, each with as many facts and locality texts as the others.
        edited: inside it the rows of each edit, one edit's after the other's, see that edit.

    Returns:
        L_e, L_loc, and the share of target tokens that are the most probable ones after the edit.
    """
    rows: list[list[int]] = []
    asked: list[tuple[int, int, int]] = []  # row, position, token to be predicted there
    fixed: list[int] = []
    for example in examples:
        for said, prompt, fact in zip(example.asked, model.encode(example.asked), example.facts, strict=True):
            target = model.encode_target(fact.target_new, said, fact.join)
            asked += [(len(rows), len(prompt) - 1 + i, token) for i, token in enumerate(target)]
            rows.append(prompt + target[:-1])
        for text in model.encode(example.locality):
            fixed.append(len(rows))
            rows.append(text)
    for row in rows:
        model.check_length(row, "a prompt of the training")
    before = _log_probs(model, [rows[i] for i in fixed]).detach()
    per_edit = len(rows) // len(examples)
    with edited:
        after = _log_probs(model, rows)
    row, position, token = torch.tensor(asked, device=model.device).T
    predictions = after[row, position]
    nll = -predictions.gather(1, token[:, None])[:, 0]
    at = torch.tensor([(i, j) for i in fixed for j in range(len(rows[i]))], device=model.device).T
    here = torch.tensor([(i, j) for i, r in enumerate(fixed) for j in range(len(rows[r]))], device=model.device).T
    p, q = before[here[0], here[1]], after[at[0], at[1]]
    kl = (p.exp() * (p - q)).sum(-1)
    right = (predictions.argmax(-1) == token).float().mean()
    return mean_by_edit(nll, row // per_edit), mean_by_edit(kl, at[0] // per_edit), right


def _log_probs(model: EditableModel, rows: Sequence[Sequence[int]]) -> Float[Tensor, "row pos vocab"]:
    tokens = model.pad(rows)
    logits = model.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, use_cache=False).logits
    log_probs: Tensor = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return log_probs
