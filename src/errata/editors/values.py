"""Values: the vector v* (ROME) or z* (MEMIT) that makes the model say the new object."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from errata.editors.keys import place
from errata.editors.settings import EditorSettings
from errata.edits import Fact
from errata.models import EditableModel
from errata.models.replay import UpperLayers

__all__ = ["TargetValue", "ValueSettings", "optimise_value"]


class ValueSettings(EditorSettings):
    """How v* is optimised. Defaults are those of kmeng01/rome for GPT2-XL unless said otherwise."""

    lr: float = Field(default=0.5, gt=0)
    """Adam's step (`v_lr`). Small models want 0.05 to 0.1: their hidden states are shorter."""
    adam_epsilon: float = Field(default=1e-8, gt=0)
    """Adam's ε. Torch's default moves every coordinate by about `lr`, however small its gradient, so that δ fills
    directions which the fact does not need; an ε of the size of the gradients keeps δ to those it needs."""
    steps: int = Field(default=20, ge=1)
    """Evaluations of the loss (`v_num_grad_steps`); one step fewer is taken."""
    weight_decay: float = Field(default=0.5, ge=0)
    """Weight of ‖δ‖/‖h₀‖² in the loss (`v_weight_decay`). ROME's appendix prints 1.5e-3, its files hold 0.5."""
    clamp_norm_factor: float = Field(default=4.0, gt=0)
    """δ is kept within this many ‖h₀‖."""
    kl_factor: float = Field(default=0.0625, ge=0)
    """Weight of the essence term: KL of the prediction after "{subject} is a" to what it was."""
    kl_position: Literal["subject", "end"] = "subject"
    """Where that prediction is read: at the subject's last token as kmeng01/rome does, or at the prompt's end as the
    paper says (2202.05262, eq. 4)."""
    loss_stop: float = Field(default=0.05, ge=0)
    """Stop once the loss is below this."""


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


def optimise_value(
    model: EditableModel,
    fact: Fact,
    layer: int,
    site: Literal["mlp", "block"],
    templates: Sequence[str],
    settings: ValueSettings,
) -> TargetValue:
    """Find the vector at the subject's last token that makes the model answer the new object.

    Minimises (1/N) Σⱼ −log P(o*|xⱼ⊕p; h+=δ) + kl_factor·KL + weight_decay·‖δ‖/‖h₀‖² with ‖δ‖ ≤ clamp·‖h₀‖
    (2202.05262, eq. 4; 2210.07229, eq. 16). What lies below the layer's output is computed once.

    Args:
        model: the model, possibly under an overlay.
        fact: what to teach.
        layer: the block l at whose output δ acts; in every supported family the feed-forward output enters it
            additively, so that δ on v and δ on h are the same intervention.
        site: whose output is h₀: "mlp" gives ROME's v*, "block" MEMIT's z*.
        templates: context templates; the first must be the bare "{}".
        settings: of the optimisation.
    """
    target = model.encode_target(fact.target_new)
    placed = [place(model, fact, t) for t in templates]
    essence, subject_at = place(model, fact, prompt="{} is a")
    essence_at = subject_at if settings.kl_position == "subject" else len(essence) - 1
    mlp_path = f"{model.block_path(layer)}.{model.family.mlp}"
    prompts = [ids + target[:-1] for ids, _ in placed] + [essence]
    for ids in prompts:
        model.check_length(ids, f"fact {fact.id!r}: its prompt with the new object")
    starts = [at for _, at in placed] + [subject_at]
    upper = UpperLayers(model, layer, prompts, starts, watch=(mlp_path,))
    initial = upper.outputs[mlp_path if site == "mlp" else model.block_path(layer)][0, 0].clone()

    n, length = len(placed), len(target)
    scored = [(row, len(ids) - 1 + j - at) for row, (ids, at) in enumerate(placed) for j in range(length)]
    rows, positions = torch.tensor([*scored, (n, essence_at - subject_at)], device=model.device).T
    wanted = torch.tensor(target * n, device=model.device)

    # Half precision cannot carry Adam's small steps: δ lives in float32 at least.
    precision = torch.promote_types(initial.dtype, torch.float32)
    initial = initial.to(precision)
    delta = torch.zeros_like(initial, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=settings.lr, eps=settings.adam_epsilon)
    essence_before: Tensor | None = None
    losses: list[float] = []
    probability = float("nan")
    for step in range(settings.steps):
        # Every prompt's first kept position is its subject's last token.
        here = upper.hidden[:, :1] + delta.to(upper.hidden.dtype)
        logits = upper.logits(torch.cat([here, upper.hidden[:, 1:]], dim=1), rows, positions)
        log_probs = torch.log_softmax(logits.to(precision), dim=-1)
        token_nll = -log_probs[:-1].gather(1, wanted[:, None]).reshape(n, length)
        if essence_before is None:
            essence_before = log_probs[-1].detach().clone()
        # kmeng01's order of arguments: the divergence of the edited prediction from the original one.
        kl = torch.nn.functional.kl_div(essence_before, log_probs[-1], log_target=True, reduction="sum")
        decay = delta.norm() / initial.norm() ** 2
        loss = token_nll.mean(1).mean() + settings.kl_factor * kl + settings.weight_decay * decay
        losses.append(loss.item())
        probability = float(torch.exp(-token_nll.detach().mean(1)).mean())
        if losses[-1] < settings.loss_stop or step == settings.steps - 1:
            break
        optimiser.zero_grad()
        delta.grad = torch.autograd.grad(loss, delta)[0]
        optimiser.step()
        with torch.no_grad():
            limit = settings.clamp_norm_factor * initial.norm()
            if delta.norm() > limit:
                delta.mul_(limit / delta.norm())
    return TargetValue((initial + delta).detach(), initial, tuple(losses), probability)
