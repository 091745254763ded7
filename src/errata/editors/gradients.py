"""Gradients token by token: what a projection received, and the loss's gradient at what it returned."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import functional_call

from errata.edits import Fact
from errata.models import EditableModel
from errata.models.head import head_at
from errata.models.hooks import add_to_outputs

__all__ = ["Pair", "TokenGradients", "mean_by_edit", "pairs_of", "target_log_probs", "token_gradients"]

Pair = tuple[list[int], list[int]]
"""Token ids of a prompt and of the target that follows it."""


@dataclass(frozen=True)
class TokenGradients:
    """Hold uₜ and δₜ of one projection v = W u: the loss's gradient is ∇_W L = Σₜ δₜ uₜᵀ.

    Args:
        inputs: uₜ, what the projection received.
        deltas: δₜ = ∂L/∂vₜ.
    """

    inputs: Float[Tensor, "row pos in"]
    deltas: Float[Tensor, "row pos out"]

    @property
    def used(self) -> Bool[Tensor, "row pos"]:
        """Where the loss depends on the projection: not at padding, nor behind the last token that is scored."""
        return (self.deltas != 0).any(-1) & (self.inputs != 0).any(-1)


def pairs_of(model: EditableModel, facts: Sequence[Fact]) -> list[Pair]:
    """Encode each fact's prompt and its new object."""
    prompts = model.encode([fact.text for fact in facts])
    pairs = [(p, model.encode_target(f.target_new, f.text, f.join)) for p, f in zip(prompts, facts, strict=True)]
    for fact, (prompt, target) in zip(facts, pairs, strict=True):
        model.check_length(prompt + target, f"fact {fact.id!r}: its prompt with the new object")
    return pairs


def target_log_probs(
    model: EditableModel,
    pairs: Sequence[Pair],
    *,
    weights: Mapping[str, Tensor] | None = None,
    forced: bool = True,
) -> tuple[Float[Tensor, " token"], Int[Tensor, " token"]]:
    """Return log P of every target token given what stands before it, and the row to which it belongs.

    Args:
        model: the model, possibly under an overlay.
        pairs: prompts with their targets, a row each.
        weights: stored weights, by parameter name, that stand in for the model's own.
        forced: let the target's earlier tokens stand before each; otherwise the prompt alone does.
    """
    inputs = [prompt + target[:-1] if forced else prompt for prompt, target in pairs]
    tokens = model.pad(inputs)
    call = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask, "use_cache": False}
    places = [(r, len(p) - 1 + i * forced, t) for r, (p, target) in enumerate(pairs) for i, t in enumerate(target)]
    rows, _, ids = torch.tensor(places, device=model.device).T
    begun = model.begun(inputs) if model.begun else nullcontext()
    with begun, head_at(model, [(row, position) for row, position, _ in places]):
        picked = functional_call(model.model, dict(weights or {}), (), call).logits[0]
    log_probs = picked.to(torch.promote_types(picked.dtype, torch.float32)).log_softmax(-1)
    return log_probs.gather(1, ids[:, None])[:, 0], rows


def mean_by_edit(values: Float[Tensor, " token"], edits: Int[Tensor, " token"]) -> Float[Tensor, " edit"]:
    """Average values that belong to edits 0, 1, ... over each edit."""
    count = torch.bincount(edits)
    return torch.zeros_like(count, dtype=values.dtype).index_add(0, edits, values) / count


def token_gradients(
    model: EditableModel, paths: Sequence[str], pairs: Sequence[Pair], facts_per_edit: int | None = None
) -> tuple[dict[str, TokenGradients], Float[Tensor, " edit"]]:
    """Return uₜ and δₜ of each projection for L = the mean of −log P over an edit's target tokens.

    Rows of different edits do not see one another, so that one pass serves them all.

    Args:
        model: the model; its weights get no gradient and stay as they are.
        paths: the projections.
        pairs: prompts with their targets, edit after edit.
        facts_per_edit: how many rows make one edit; all of them when None.

    Returns:
        Gradients by path, and L of each edit.
    """
    inputs: dict[str, Tensor] = {}
    probes: dict[str, Tensor] = {}

    def probed(path: str) -> Callable[[Tensor, Tensor], Tensor]:
        def add(received: Tensor, output: Tensor) -> Tensor:
            inputs[path] = received.detach()
            probes[path] = torch.zeros_like(output, requires_grad=True)
            return output + probes[path]

        return add

    with torch.enable_grad(), add_to_outputs(model.model, {path: probed(path) for path in paths}):
        log_probs, rows = target_log_probs(model, pairs)
        losses = -mean_by_edit(log_probs, rows // (facts_per_edit or len(pairs)))
        deltas = torch.autograd.grad(losses.sum(), [probes[path] for path in paths])
    found = {path: TokenGradients(inputs[path], delta) for path, delta in zip(paths, deltas, strict=True)}
    return found, losses.detach()
