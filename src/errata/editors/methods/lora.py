"""LoRA: fine-tune low-rank factors beside the projections and add their product to the weights."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from errata.editors.finetuning import FineTuningSettings, SeededFineTuning, descend, target_loss
from errata.editors.projections import projections
from errata.editors.update import LowRank, Update, overlay
from errata.edits import Fact
from errata.models import EditableModel

__all__ = ["LoRA", "LoRASettings"]


class LoRASettings(FineTuningSettings):
    """Settings of LoRA. Defaults are those of zjunlp/EasyEdit for Llama-2 7B."""

    unpublished: ClassVar[Mapping[str, Any]] = {"lr": 2e-4, "loss_stop": 0.05}

    rank: int = Field(default=8, ge=1)
    """r, the rank of every ΔW."""
    alpha: float = Field(default=32.0, gt=0)
    """α: the product of the factors is scaled by α/r."""
    modules: tuple[str, ...] = ()
    """Projections that get factors, by the end of their path ("q_proj") or of that of a module around them ("mlp");
    all of attention when empty. EasyEdit: c_attn (GPT2-XL), fc_in and fc_out (GPT-J), q_proj and v_proj (Llama)."""
    lr: float = Field(default=5e-3, gt=0)
    """Adam's step. EasyEdit's is that of AdaLoRA, whose three small factors move ΔW far less in a first step than two
    do. A model without published settings gets LoRA's own 2e-4 (2106.09685, table 11)."""
    steps: int = Field(default=70, ge=1)
    """Passes over the batch. GPT2-XL 30, GPT-J 50, Llama 70."""
    loss_stop: float = Field(default=0.0, ge=0)
    """Skip a step whose loss is below this, and stop once a whole pass is. EasyEdit takes every step. A model
    without published settings stops at 0.05: steps beyond that only break what is around the fact."""


class LoRA(SeededFineTuning):
    """Train ΔW = (α/r) B A on −(1/N) Σᵢ log P(oᵢ* | p, o*_{<i}), B from zero, A at random (2106.09685, eq. 3 and §4.1).

    Each batch gets factors of its own, drawn anew, which are then part of the weights. EasyEdit's files choose AdaLoRA
    for most models and a dropout of 0.1; here it is LoRA itself, without dropout, so that an edit is reproducible.
    """

    name: ClassVar[str] = "lora"
    paper: ClassVar[str] = "2106.09685"
    Settings: ClassVar[type[LoRASettings]] = LoRASettings
    settings: LoRASettings

    def _paths(self, model: EditableModel) -> list[str]:
        return projections(model, self.settings.modules or (model.family.attention,))

    def propose(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return ΔW of rank r for every projection."""
        s = self.settings
        precision = torch.promote_types(model.dtype, torch.float32)
        # A function of seed and facts: every batch has its own draw, and proposing it again gives the same.
        seed = Random(f"{self._seed} {[fact.id for fact in batch]}").getrandbits(63)
        generator = torch.Generator().manual_seed(seed)
        factors: dict[str, tuple[Tensor, Tensor]] = {}
        for path in self._paths(model):
            d_out, d_in = model.weight(path).shape
            A = (2 * torch.rand(s.rank, d_in, generator=generator, dtype=precision) - 1) / d_in**0.5
            B = torch.zeros(d_out, s.rank, dtype=precision)
            factors[path] = (B.to(model.device).requires_grad_(True), A.to(model.device).requires_grad_(True))

        def changes() -> dict[str, LowRank]:
            return {path: LowRank(s.alpha / s.rank * B, A) for path, (B, A) in factors.items()}

        def loss_of(facts: Sequence[Fact]) -> Tensor:
            with overlay(model, changes()):
                return target_loss(model, facts)

        trained = [factor for pair in factors.values() for factor in pair]
        diagnostics = descend(trained, loss_of, batch, s)
        return Update({path: LowRank(c.left.detach(), c.right.detach()) for path, c in changes().items()}, diagnostics)
