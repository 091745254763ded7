"""Values: the vector v* (ROME) or z* (MEMIT) that makes the model say the new object."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from errata.editors.keys import FactToken
from errata.editors.value_loop import TargetValue, minimise
from errata.editors.value_prompts import FactPrompts, Portion, portions
from errata.editors.value_settings import ValueSettings
from errata.edits import Fact
from errata.errors import ConfigError
from errata.models import EditableModel
from errata.models.hooks import add_to_outputs
from errata.models.replay import shift

__all__ = [
    "TargetValue",
    "ValueSettings",
    "bytes_a_token",
    "optimise_components",
    "optimise_values",
    "tokens_together",
]

Value = TypeVar("Value")

_TOKENS = {"cpu": 2048}  # at once: more falls out of a CPU's caches
_TOKENS_ELSEWHERE = 16_384
_BYTES = 2**30  # of what a step keeps for its gradient, or of one fact where that is more


def optimise_values(
    model: EditableModel,
    facts: Sequence[Fact],
    layer: int,
    site: Literal["mlp", "block"],
    templates: Sequence[str],
    settings: ValueSettings,
    adjust: Callable[[Tensor, Tensor], Tensor] | None = None,
    token: FactToken = "subject_last",
    look_every: int | None = None,
) -> list[TargetValue]:
    """Find for each fact the vector at its subject's last token that makes the model answer the new object.

    Minimises (1/N) Σⱼ −log P(o*|xⱼ⊕p; h+=δ) + kl_factor·KL + weight_decay·‖δ‖/‖h₀‖² with ‖δ‖ ≤ clamp·‖h₀‖
    (2202.05262, eq. 4; 2210.07229, eq. 16). What lies below the layer's output is computed once. The facts know nothing
    of each other: they are optimised together because that is quicker.

    δ is added to v, what the feed-forward projection W of the layer puts out. Where v enters the residual stream as it
    is, that is the same as adding it to the block's output h. Where a norm N lies between (Gemma 2 and 3), h moves by
    N(v+δ) − N(v), the only moves that a change of W can make, and decay and bound are measured by ‖v‖ for both sites.

    Args:
        model: the model, possibly under an overlay.
        facts: what to teach.
        layer: the block l.
        site: whose output is h₀: "mlp" gives ROME's v*, "block" MEMIT's z*.
        templates: context templates; the first must be the bare "{}".
        settings: of the optimisation.
        adjust: given v* = v₀ + δ and v₀, returns what shall stand for v*.
        token: the token at which δ acts.
        look_every: after how many steps facts that have stopped leave the computation, see `minimise`.
    """
    mlp_path, block_path = f"{model.block_path(layer)}.{model.family.mlp}", model.block_path(layer)
    norm = model.mlp_norm(layer)
    tasks = [FactPrompts.of(model, fact, templates, settings.kl_position == "end", token) for fact in facts]
    if norm is not None and any(task.changed[0] for task in tasks):
        raise ConfigError(f"fact_token is last_padded, which {model.family.name} is not edited at; use last.")

    def values(portion: Portion) -> list[TargetValue]:
        bare = portion.changed[0][portion.bare], portion.changed[1][portion.bare]
        written, reached = (portion.upper.outputs[path][bare] for path in (mlp_path, block_path))

        def logits(deltas: Sequence[Tensor]) -> Tensor:
            upper = portion.upper
            moves = shift(norm, upper.outputs[mlp_path][portion.changed], deltas[0][portion.facts])
            moved = upper.hidden.index_put(portion.changed, moves.to(upper.hidden.dtype), accumulate=True)
            return upper.logits(moved, portion.reads)

        initial = reached if site == "block" and norm is None else written
        (found,) = minimise(portion, [initial], logits, settings, look_every)
        if adjust is not None:
            found = [_adjusted(value, v, adjust) for value, v in zip(found, written, strict=True)]
        if site == "block":
            return [_behind(norm, value, h) for value, h in zip(found, reached, strict=True)]
        return found if norm is None else [_shortened(value) for value in found]

    half = settings.matrices == "bfloat16"
    return _in_portions(
        model, tasks, layer, values, lambda part: Portion(model, part, layer, (mlp_path,), bfloat16=half)
    )


def optimise_components(
    model: EditableModel,
    facts: Sequence[Fact],
    layer: int,
    templates: Sequence[str],
    settings: ValueSettings,
    token: FactToken = "subject_last",
) -> list[tuple[TargetValue, TargetValue]]:
    """Find for each fact the outputs of one block's attention and feed-forward that together make the model answer.

    Minimises the loss of `optimise_values` over δᵃ, added to the attention's output, and δᵐ, added to W's, at the
    subject's last token; each has a decay and a bound of its own (PMET, 2308.08742). δᵃ also reaches what the
    feed-forward receives, where attention comes before it.

    Args:
        model: the model, possibly under an overlay.
        facts: what to teach.
        layer: the block whose two outputs are changed.
        templates: context templates; the first must be the bare "{}".
        settings: of the optimisation.
        token: the token at which both act; not "last_padded".

    Returns:
        The values of attention and of feed-forward, with the losses of their common optimisation.
    """
    paths = (f"{model.block_path(layer)}.{model.family.attention}", model.mlp_out(layer))
    tasks = [FactPrompts.of(model, fact, templates, settings.kl_position == "end", token) for fact in facts]

    def values(portion: Portion) -> list[tuple[TargetValue, TargetValue]]:
        bare = portion.changed[0][portion.bare], portion.changed[1][portion.bare]

        def adder(delta: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
            added = delta[portion.facts]
            return lambda _, output: output.index_put(portion.changed, added.to(output.dtype), accumulate=True)

        def logits(deltas: Sequence[Tensor]) -> Tensor:
            with add_to_outputs(model.model, {p: adder(d) for p, d in zip(paths, deltas, strict=True)}):
                return portion.upper.logits(portion.upper.hidden, portion.reads)

        initials = [portion.upper.outputs[path][bare] for path in paths]
        attention, feed_forward = minimise(portion, initials, logits, settings)
        return list(zip(attention, feed_forward, strict=True))

    half = settings.matrices == "bfloat16"
    return _in_portions(model, tasks, layer, values, lambda part: Portion(model, part, layer, paths, True, half))


def tokens_together(model: EditableModel, layer: int, device: torch.device | None = None) -> int:
    """Return how many tokens of prompts are optimised together, where one fact has no more.

    Args:
        model: the model, or its outline.
        layer: the block at whose output δ acts.
        device: in place of the model's own: where an outline is to be.
    """
    at_best = _TOKENS.get((device or model.device).type, _TOKENS_ELSEWHERE)
    return min(at_best, _BYTES // bytes_a_token(model, layer))


def bytes_a_token(model: EditableModel, layer: int) -> int:
    """Return what the blocks above a layer keep of one token for their backward pass, about."""
    inner = model.weight(model.mlp_out(layer)).shape[1]
    return (model.n_layers - layer) * (12 * model.hidden_size + 4 * inner) * model.dtype.itemsize


def _in_portions(
    model: EditableModel,
    tasks: Sequence[FactPrompts],
    layer: int,
    values: Callable[[Portion], Sequence[Value]],
    portion: Callable[[Sequence[FactPrompts]], Portion],
) -> list[Value]:
    """Return the value of every task, as many tasks at a time as the device computes best and holds."""
    tokens = tokens_together(model, layer)
    found: dict[int, Value] = {}
    for part in portions(tasks, tokens):
        found |= zip(part, values(portion([tasks[i] for i in part])), strict=True)
    return [found[i] for i in range(len(tasks))]


def _adjusted(value: TargetValue, written: Tensor, adjust: Callable[[Tensor, Tensor], Tensor]) -> TargetValue:
    """Return h₀ + δ with the δ that `adjust` leaves of it."""
    before = written.to(value.vector.dtype)
    after = adjust(before + (value.vector - value.initial), before)
    return replace(value, vector=value.initial + (after - before))


def _shortened(value: TargetValue) -> TargetValue:
    """Return v* at the length of v: a norm behind W forgets lengths, and a long change of W moves other keys too."""
    return replace(value, vector=value.vector * (value.initial.norm() / value.vector.norm()))


@torch.no_grad()
def _behind(norm: nn.Module | None, value: TargetValue, reached: Tensor) -> TargetValue:
    """Return the block's output h₀ + N(v + δ) − N(v) for a value of v + δ, and h₀; the value itself without a norm."""
    if norm is None:
        return value
    initial = reached.to(value.vector.dtype)
    moved = shift(norm, value.initial[None], (value.vector - value.initial)[None])[0]
    return replace(value, vector=initial + moved, initial=initial)
