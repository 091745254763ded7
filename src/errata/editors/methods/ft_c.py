"""FT-C: fine-tune one layer, each weight kept within ±ε of where it was (also known as FT-L)."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from errata.editors.base import Editor
from errata.editors.settings import EditorSettings
from errata.editors.update import Dense, Update
from errata.edits import Fact
from errata.errors import NumericalError
from errata.models import EditableModel

__all__ = ["FTC", "FTCSettings"]


class FTCSettings(EditorSettings):
    """Settings of FT-C. Defaults are those of kmeng01/rome for GPT2-XL unless said otherwise."""

    layer: int = Field(ge=0)
    """The fine-tuned layer. The first paper names ROME's layer; its files hold 0."""
    lr: float = Field(default=5e-4, gt=0)
    """Adam's step."""
    steps: int = Field(default=25, ge=1)
    """At most this many steps."""
    epsilon: float = Field(default=5e-4, gt=0)
    """ε, how far a weight may move in one edit (`norm_constraint`). GPT2-XL 5e-4, GPT-J 5e-5."""
    loss_stop: float = Field(default=1e-2, ge=0)
    """Stop once the loss is below this."""
    targets: Literal["last-position", "teacher-forced"] = "last-position"
    """Where target tokens are scored. The published code scores all of them against the prompt's last position, a bag
    of tokens for targets of several; "teacher-forced" scores each at its own position, as FT-M does."""


class FTC(Editor):
    """Minimise −log P(o*|p) over one W by Adam, with ‖W − W₀‖_∞ ≤ ε (2401.07453 §A.6.4; 2012.00363)."""

    name: ClassVar[str] = "ft-c"
    paper: ClassVar[str] = "2012.00363"
    Settings: ClassVar[type[FTCSettings]] = FTCSettings

    def __init__(self, settings: FTCSettings) -> None:
        self.settings = settings

    def propose(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return the dense difference that the constrained steps have made."""
        s = self.settings
        path = model.mlp_out(s.layer)
        name = f"{path}.weight"
        stored = model.parameter(path).detach()
        # In half precision neither Adam's steps nor ε can be told from rounding: the matrix is trained in float32.
        before = stored.to(torch.promote_types(stored.dtype, torch.float32))
        weight = before.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([weight], lr=s.lr)
        loss_value = float("nan")
        probability = float("nan")
        for _ in range(s.steps):
            loss = self._loss(model, {name: weight.to(stored.dtype)}, batch)
            loss_value = loss.item()
            probability = float(torch.exp(-loss.detach()))
            if not math.isfinite(loss_value):
                raise NumericalError(f"the loss is {loss_value}: the model no longer predicts anything")
            if loss_value < s.loss_stop:
                break
            optimiser.zero_grad()
            weight.grad = torch.autograd.grad(loss, weight)[0]
            optimiser.step()
            with torch.no_grad():
                weight.clamp_(min=before - s.epsilon, max=before + s.epsilon)
        moved = weight.detach() - before
        diagnostics = {"loss": loss_value, "target_probability": probability}
        return Update({path: Dense(moved.T if model.family.layout == "in_out" else moved)}, diagnostics)

    def _loss(self, model: EditableModel, weights: dict[str, Tensor], batch: Sequence[Fact]) -> Tensor:
        """Return the mean over facts of the mean −log P of target tokens."""
        forced = self.settings.targets == "teacher-forced"
        prompts = model.encode([fact.text for fact in batch])
        targets = [model.encode_target(fact.target_new) for fact in batch]
        tokens = model.pad([p + t[:-1] if forced else p for p, t in zip(prompts, targets, strict=True)])
        call = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask, "use_cache": False}
        logits = functional_call(model.model, weights, (), call).logits
        losses = []
        for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
            at = [len(prompt) - 1 + (i if forced else 0) for i in range(len(target))]
            log_probs = torch.log_softmax(logits[row, at].float() if logits.dtype.itemsize < 4 else logits[row, at], -1)
            losses.append(-log_probs[torch.arange(len(target)), target].mean())
        return torch.stack(losses).mean()
