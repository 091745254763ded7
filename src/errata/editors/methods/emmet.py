"""EMMET: many edits in one layer, with the keys' new values as equality constraints."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field

from errata.editors.methods.memit import MEMIT, LayerProblem, MEMITSettings
from errata.editors.solve import Factored
from errata.editors.strength import Weight
from errata.editors.update import Change, LowRank, Update
from errata.edits import Fact
from errata.errors import NumericalError
from errata.models import EditableModel

__all__ = ["EMMET", "EMMETSettings"]

_SINGULAR = 1e14  # float64 has no digit left


class EMMETSettings(MEMITSettings):
    """Settings of EMMET. Defaults are those of scalable-model-editing/unified-model-editing for GPT2-XL."""

    typical_layers: ClassVar[int] = 1

    layers: tuple[int, ...] = Field(min_length=1)
    """The edited layer: GPT2-XL 17, GPT-J 5, Llama-2 5 (0-indexed). Over several, ascending, the residual is spread
    as MEMIT spreads it, which the code allows and the paper does not evaluate."""
    covariance_weight: Weight = 1000.0
    """λ, the weight of C (`mom2_update_weight`): GPT2-XL 1000, GPT-J and Llama-2 1. Only α·λ counts: without α the
    constraint has no use for a weight."""
    alpha: float = Field(default=0.1, ge=0)
    """α (`emmet_lambda`), added to the diagonal of Kᵀ(λC)⁻¹K in batches of two facts and more, where that matrix is
    ill-conditioned. 0 is the paper's equality constraint, which a single fact always has; 1 is MEMIT."""


class EMMET(MEMIT):
    """Solve Δ = R (Kᵀ(λC)⁻¹K + αI)⁻¹ Kᵀ(λC)⁻¹, ROME's equation for a batch (2403.14236).

    ROME and MEMIT minimise the same change of preserved outputs, tr ΔCΔᵀ; ROME under the constraint ΔK = R, MEMIT with
    ‖ΔK − R‖² beside it. EMMET has ROME's constraint for many keys: α = 0 is the paper's equation; the published code
    adds α = 0.1 for batches of two facts and more; with α = 1 these are MEMIT's.
    """

    name: ClassVar[str] = "emmet"
    paper: ClassVar[str] = "2403.14236"
    Settings: ClassVar[type[EMMETSettings]] = EMMETSettings
    settings: EMMETSettings

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._conditions: list[float] = []

    def _update(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return MEMIT's update under the constraints, whose condition joins the diagnostics."""
        self._conditions.clear()
        update = super()._update(model, batch)
        return replace(update, diagnostics={**update.diagnostics, "constraint_condition": max(self._conditions)})

    def _solve(self, model: EditableModel, problem: LayerProblem) -> Change:
        """Return R (KᵀA⁻¹K + αI)⁻¹KᵀA⁻¹, A being `_matrix`.

        Raises:
            NumericalError: when the constraints contradict one another: keys that depend on each other, and no α.
        """
        K = problem.keys
        system = self._systems[problem.path]
        assert isinstance(system, Factored)
        X = system.solve(K)
        D = K.T @ X
        if K.shape[1] > 1:
            D = D + self.settings.alpha * torch.eye(K.shape[1], dtype=K.dtype, device=K.device)
        condition = float(torch.linalg.cond(D))
        self._conditions.append(condition)
        if not condition < _SINGULAR:
            raise NumericalError(
                f"the keys of this batch depend on one another at {problem.path} (condition {condition:.3g}), so that "
                f"no change gives each its value: are there facts of one subject? Edit them in different batches, or "
                f"set `alpha` above 0."
            )
        return LowRank(problem.residual, torch.linalg.solve(D, X.T))
