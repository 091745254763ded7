"""AlphaEdit: change weights only where the covariance of keys is almost zero."""

from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from errata.editors.history import PastKeys
from errata.editors.methods.memit import LayerProblem, SpreadSettings
from errata.editors.methods.memit_history import MEMITHistory
from errata.editors.solve import null_space
from errata.editors.statistics import SecondMoment, StatisticsStore
from errata.editors.strength import Weight, calibration_keys, weight_for
from errata.editors.update import Change, LowRank
from errata.models import EditableModel

__all__ = ["AlphaEdit", "AlphaEditSettings"]


class AlphaEditSettings(SpreadSettings):
    """Settings of AlphaEdit. Defaults are those of jianghoucheng/AlphaEdit unless said otherwise."""

    unpublished: ClassVar[Mapping[str, Any]] = {
        **SpreadSettings.unpublished,
        "subjects": 0.0,  # what they do to its null space is not measured yet
        "free_share": 0.8,
        "identity_weight": "auto",
    }
    displaces: ClassVar[Mapping[str, str]] = {"threshold": "free_share", "threshold_unit": "free_share"}

    threshold: float = Field(default=2e-2, gt=0)
    """Directions in which C is smaller than this are free to change (`nullspace_threshold`). The paper says 1e-2."""
    threshold_unit: Literal["absolute", "mean"] = "absolute"
    """Whether the threshold is absolute, as published, or a fraction of C's mean eigenvalue, which does not depend on
    the length of a model's keys."""
    free_share: float | None = Field(default=None, gt=0, le=1)
    """In place of a threshold: the share of all directions that are free, those in which C is smallest. 0.8 where a
    model has no published settings; a threshold that is given takes its place."""
    identity_weight: Weight = 10.0
    """λ, the weight of I (`L2`). The paper has 1. "auto": the λ at which the median key of well-known subjects realises
    the fraction `realised`."""
    realised: float = Field(default=0.9, gt=0, lt=1)
    """ρ, with an "auto" λ: how much of a wanted change one edit gets at one layer."""


class AlphaEdit(MEMITHistory):
    """Solve Δˡ = R Kᵀ P (K_pK_pᵀ P + KKᵀ P + λI)⁻¹, P onto the null space of C (2410.02355).

    P = U Uᵀ, U the eigenvectors of C whose eigenvalue is below the threshold. The solution lies in their span, so it is
    computed there, where the system is symmetric: Δ = R (U (Uᵀ(K_pK_pᵀ + KKᵀ)U + λI)⁻¹ UᵀK)ᵀ. MEMIT's λC and the ridge
    have no part in it. The published code takes the keys to be remembered anew once all layers are changed; they are
    the same, since a layer's keys depend on the layers below it alone.
    """

    name: ClassVar[str] = "alphaedit"
    paper: ClassVar[str] = "2410.02355"
    Settings: ClassVar[type[AlphaEditSettings]] = AlphaEditSettings
    settings: AlphaEditSettings

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._free: dict[str, Tensor] = {}
        self._calibrating: dict[str, Tensor] = {}  # keys of well-known subjects, while λ is set

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Sample the context prefixes, and find the null space of each layer's C, once for all runs."""
        self._store = statistics
        s = self.settings
        auto = s.identity_weight == "auto"
        self._calibrating = calibration_keys(model, s.layers, s.fact_token) if auto else {}
        super().prepare(model, statistics, rng)
        self._calibrating = {}

    def _weigh(self, path: str, moment: SecondMoment) -> None:
        """Find the null space of C, and begin with no past keys beside λI in its coordinates."""
        C, s = moment.matrix.double(), self.settings
        what = f"{s.threshold!r} {s.threshold_unit}" if s.free_share is None else f"{s.free_share!r} of all directions"
        self._free[path] = U = self._store.derived(
            f"null space below {what}",
            moment.matrix,
            lambda: null_space(C, self._below(C), f"the covariance of {path}"),
        )
        size, device = U.shape[1], U.device
        weight = s.identity_weight
        if weight == "auto":
            weight = weight_for((U.T @ self._calibrating[path]).pow(2).sum(0), s.realised)
        self._weights[path] = weight

        def begin() -> Float[Tensor, "free free"]:
            return weight * torch.eye(size, dtype=torch.float64, device=device)

        self._systems[path] = self._past[path] = PastKeys(begin, f"the system of {path}")

    def _below(self, C: Float[Tensor, "in in"]) -> float:
        """Return the eigenvalue below which a direction is free."""
        s = self.settings
        if s.free_share is not None:
            return float(torch.linalg.eigvalsh(C).quantile(s.free_share))
        return s.threshold * (float(C.diagonal().mean()) if s.threshold_unit == "mean" else 1.0)

    def projectors(self) -> dict[str, Float[Tensor, "in in"]]:
        """Return P of every edited module."""
        return {path: U @ U.T for path, U in self._free.items()}

    def _remembered(self, path: str, keys: Float[Tensor, "in fact"]) -> Float[Tensor, "free fact"]:
        """Return UᵀK."""
        # In the layout in which keys are read from disk: kernels for another round otherwise.
        return self._free[path].T @ keys.double().clone(memory_format=torch.contiguous_format)

    def _solve(self, model: EditableModel, problem: LayerProblem) -> Change:
        """Return R Kᵀ P (K_pK_pᵀ P + KKᵀ P + λI)⁻¹."""
        path = problem.path
        free = self._past[path].solve_with(self._remembered(path, problem.keys))
        return LowRank(problem.residual, (self._free[path] @ free).T)
