"""Adam over the δ of many facts at once, each with the loss, the bound and the stop that it would have alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from errata.editors.value_prompts import Portion
from errata.editors.value_settings import ValueSettings

__all__ = ["TargetValue", "minimise"]

_EASED = 0.1  # the weight of -log P(o*) once it is the most probable (xpq-tech/PMET)
_SLOW_STEPS = 2  # in a row
_LOOK_EVERY = 5  # steps that go by on an accelerator before the host waits for it


@dataclass(frozen=True)
class TargetValue:
    """The outcome of one optimisation.

    Args:
        vector: h₀ + δ.
        initial: h₀, the module's output at the bare prompt's subject.
        losses: the loss at every evaluation.
        probability: mean probability of the target under the contexts, at the last evaluation.
    """

    vector: Float[Tensor, " d"]
    initial: Float[Tensor, " d"]
    losses: tuple[float, ...]
    probability: float


def minimise(
    portion: Portion,
    initials: Sequence[Float[Tensor, "fact d"]],
    logits: Callable[[Sequence[Float[Tensor, "running d"]]], Float[Tensor, "read vocab"]],
    settings: ValueSettings,
    look_every: int | None = None,
) -> list[list[TargetValue]]:
    """Optimise one δ for each initial vector of each fact; a fact that has stopped is left where it stopped.

    Nothing in a step waits for the device. Every `look_every` steps the host asks which facts go on, and the others
    leave the computation; the values are the same however often it asks.

    Args:
        portion: the facts' prompts.
        initials: h₀ of every fact, for each module that is changed.
        logits: gives the model's at the portion's reads, of the δ of the facts that it still holds.
        settings: of the optimisation.
        look_every: 1 on a CPU, where asking costs nothing, and 5 elsewhere, when empty.

    Returns:
        For each initial vector the facts' outcomes.
    """
    device, n = initials[0].device, len(initials[0])
    look_every = look_every or (1 if device.type == "cpu" else _LOOK_EVERY)
    # Half precision cannot carry Adam's small steps: δ lives in float32 at least.
    precision = torch.promote_types(initials[0].dtype, torch.float32)
    initials = [initial.to(precision) for initial in initials]
    lengths = [initial.norm(dim=1) for initial in initials]
    deltas = [torch.zeros_like(initial, requires_grad=True) for initial in initials]
    adam = torch.optim.Adam(deltas, lr=settings.lr, eps=settings.adam_epsilon)
    losses = torch.full((settings.steps, n), float("nan"), dtype=precision, device=device)
    probability = torch.full((n,), float("nan"), dtype=precision, device=device)
    moving = torch.ones(n, dtype=torch.bool, device=device)
    evaluations, reached, slow = torch.zeros(3, n, dtype=torch.long, device=device)
    bounded = torch.zeros(n, dtype=torch.bool, device=device)  # whether every δ of a fact lies at its bound
    falls: tuple[Tensor, Tensor] | None = None  # the loss at first and at the last step, for what has settled
    weight = torch.ones(n, dtype=precision, device=device)
    running = list(range(n))  # the facts that the portion still holds
    chosen = torch.arange(n, device=device)
    essence_before: Tensor | None = None
    for step in range(settings.steps):
        log_probs = torch.log_softmax(logits([delta[chosen] for delta in deltas]).to(precision), dim=-1)
        token_nll = -log_probs.gather(1, portion.wanted[:, None])[:, 0][portion.objects]
        nll = (token_nll * portion.real).sum(2) / portion.real.sum(2)
        essence = log_probs[portion.essence]
        if essence_before is None:
            essence_before = essence.detach().clone()
        # kmeng01's order of arguments: the divergence of the edited prediction from the original one.
        kl = torch.nn.functional.kl_div(essence_before, essence, log_target=True, reduction="none").sum(1)
        decay = sum(delta[chosen].norm(dim=1) / h[chosen] ** 2 for delta, h in zip(deltas, lengths, strict=True))
        loss = weight[chosen] * nll.mean(1) + settings.kl_factor * kl + settings.weight_decay * decay
        with torch.no_grad():
            first = 1 if settings.stop_contexts == "prefixed" and nll.shape[1] > 1 else 0
            best = -log_probs.amax(1)[portion.objects]
            foremost = ((token_nll == best) | ~portion.real)[:, first:].all(2).all(1)
            counts = moving[chosen]
            evaluations += moving
            losses[step, chosen] = loss
            probability[chosen] = torch.where(counts, torch.exp(-nll).mean(1), probability[chosen])
            reached[chosen] += foremost & counts
            stops = loss < settings.loss_stop
            if settings.stop == "most-probable":
                stops |= reached[chosen] > settings.steps_after
            if settings.settled:
                even = nll.mean(1) + settings.kl_factor * kl + settings.weight_decay * decay  # the weight may change
                start, last = (even, even) if falls is None else (part[chosen] for part in falls)
                settling = (last - even < settings.settled * (start - even)) & bounded[chosen]
                slow[chosen] = torch.where(settling, slow[chosen] + 1, 0)
                stops |= slow[chosen] >= _SLOW_STEPS
                falls = falls or (even.clone(), even.clone())
                falls[1][chosen] = even
            if settings.stop == "kl":
                stops |= foremost & (settings.kl_factor * kl <= settings.kl_stop)
                weight[chosen] = torch.where(foremost, _EASED, 1.0).to(precision)
            moving[chosen] = counts & ~stops
        if step == settings.steps - 1:
            break
        left = running
        if (step + 1) % look_every == 0:
            left = moving.nonzero()[:, 0].tolist()
            if not left:
                break
        for delta, gradient in zip(deltas, torch.autograd.grad(loss.sum(), deltas), strict=True):
            delta.grad = gradient
        before = [delta.detach().clone() for delta in deltas]
        adam.step()
        with torch.no_grad():
            bounded.fill_(True)
            for delta, old, length in zip(deltas, before, lengths, strict=True):
                bound = (settings.clamp_norm_factor * length / delta.norm(dim=1)).clamp(max=1.0)
                delta.copy_(torch.where(moving[:, None], delta * bound[:, None], old))
                bounded &= bound < 1
        if len(left) < len(running):
            kept = [running.index(fact) for fact in left]
            portion.keep(kept)
            essence_before = essence_before[torch.tensor(kept, device=device)]
            running, chosen = left, torch.tensor(left, device=device)
    curves = [curve[:end] for curve, end in zip(losses.T.tolist(), evaluations.tolist(), strict=True)]
    likely = probability.tolist()
    return [
        [
            TargetValue(vector, start, tuple(curve), p)
            for vector, start, curve, p in zip((initial + delta).detach(), initial, curves, likely, strict=True)
        ]
        for delta, initial in zip(deltas, initials, strict=True)
    ]
