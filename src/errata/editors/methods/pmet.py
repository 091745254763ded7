"""PMET: optimise what attention and feed-forward put out together, and write only the feed-forward's part."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from errata.editors.methods.memit import MEMIT, MEMITSettings
from errata.editors.staged import Staged
from errata.editors.strength import Weight
from errata.editors.values import TargetValue, ValueSettings, optimise_components
from errata.edits import Fact
from errata.models import EditableModel

__all__ = ["PMET", "PMETSettings"]


class PMETSettings(MEMITSettings):
    """Settings of PMET. Defaults are those of xpq-tech/PMET for GPT-J, the smaller of its models."""

    unpublished: ClassVar[Mapping[str, Any]] = {"covariance_weight": "auto", "ridge": 1e-3, "subjects": 1.0}

    covariance_weight: Weight = 6_000.0
    """λ, the weight of C against the keys of the batch (`mom2_update_weight`). GPT-NeoX 20B 15,000."""
    value: ValueSettings = ValueSettings(lr=0.2, steps=30, clamp_norm_factor=0.75, kl_factor=1.0, stop="kl")
    """How the two values are optimised: once the object is the most probable its term weighs a tenth, until the essence
    term is at most 0.01."""


class PMET(MEMIT):
    """Solve Δˡ = R Kᵀ (λC + KKᵀ)⁻¹ with R = (v* − W k)/√(L − l + 1), v* the feed-forward's own value (2308.08742).

    MEMIT's z* is a hidden state, of which attention and the residual stream make up a part that W is not to learn. Here
    δᵃ at the attention's output of the last edited layer and δᵐ at W's are optimised together; attention keeps its
    weights, and W is taught m + δᵐ alone. The square root hands the lower layers more of what is missing.
    """

    name: ClassVar[str] = "pmet"
    paper: ClassVar[str] = "2308.08742"
    Settings: ClassVar[type[PMETSettings]] = PMETSettings
    settings: PMETSettings

    def _targets(self, model: EditableModel, batch: Sequence[Fact]) -> list[TargetValue]:
        """Return what W of the last edited layer is to put out for every fact."""
        value, templates = self._in_loop(["{}", *self._templates])
        parts = optimise_components(model, batch, self.settings.layers[-1], templates, value, self.settings.fact_token)
        return [replace(v, vector=self._adjusted(v.vector, v.initial)) for _, v in parts]

    def _missing(self, model: EditableModel, bare: Staged, targets: Sequence[TargetValue]) -> Float[Tensor, "out fact"]:
        """Return v* − W k, what W of the last edited layer does not yet put out."""
        reached = bare.highest(model.mlp_out(self.settings.layers[-1]))
        return (torch.stack([t.vector for t in targets]) - reached).double().T

    def _residual(
        self, model: EditableModel, bare: Staged, targets: Sequence[TargetValue], index: int
    ) -> Float[Tensor, "out fact"]:
        """Return one layer's part of what is missing: its share by the square root of the layers that are left."""
        return self._missing(model, bare, targets) / math.sqrt(self._parts(index))
