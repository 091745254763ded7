"""The least factors of a sum of changes: what an adapter holds of a matrix that was edited many times."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from errata.editors.update import Change, LowRank, total
from errata.errors import NumericalError

__all__ = ["TOLERANCE", "Factors", "factorise"]

TOLERANCE = torch.finfo(torch.float32).eps
"""Singular values below this share of the largest are left out: what is smaller is lost where ΔW is added to weights
in float32."""


@dataclass(frozen=True)
class Factors:
    """ΔW ≈ left · right, with what was left out.

    Args:
        change: the factors, in float32, each with the square roots of the singular values.
        numerical: the rank of ΔW itself, by `TOLERANCE`.
        kept: ‖left · right‖_F / ‖ΔW‖_F; 1.0 for a ΔW of zeros.
        dense: whether one of the changes was no product of factors.
    """

    change: LowRank
    numerical: int
    kept: float
    dense: bool

    @property
    def rank(self) -> int:
        """How many rows and columns the factors have."""
        return self.change.right.shape[0]

    @property
    def saves(self) -> bool:
        """Whether the factors are smaller than the matrix."""
        left, right = self.change.left, self.change.right
        return left.numel() + right.numel() < left.shape[0] * right.shape[1]


def factorise(changes: Sequence[Change], rank: int | None = None, where: str = "a matrix") -> Factors:
    """Add up changes of one matrix and return the least factors of the sum, ΔW = U Σ Vᵀ, computed in float64.

    As long as the factors of all changes are smaller than the matrix, ΔW is never formed: with L = Q₁R₁ and Rᵀ = Q₂R₂
    the singular values of LR are those of R₁R₂ᵀ, which is as small as the factors' rank.

    Args:
        changes: of the same matrix, in the order in which they were made; at least one.
        rank: keep so many singular values at most, the largest; all above `TOLERANCE` when None.
        where: the matrix, for messages.

    Raises:
        NumericalError: when a change holds NaN or infinity.
    """
    dense = any(not isinstance(change, LowRank) for change in changes)
    summed = total([(1.0, _double(change)) for change in changes])
    if isinstance(summed, LowRank):
        outer, inner = _qr(summed.left, where), _qr(summed.right.T, where)
        u, s, vt = torch.linalg.svd(outer[1] @ inner[1].T, full_matrices=False)
        u, vt = outer[0] @ u, vt @ inner[0].T
    else:
        u, s, vt = torch.linalg.svd(_finite(summed.matrix, where), full_matrices=False)
    numerical = int((s > TOLERANCE * s.max()).sum()) if s.numel() else 0
    r = numerical if rank is None else min(rank, numerical)
    roots = s[:r].sqrt()
    whole = float(s.norm())
    return Factors(
        LowRank((u[:, :r] * roots).float(), (roots[:, None] * vt[:r]).float()),
        numerical,
        float(s[:r].norm()) / whole if whole else 1.0,
        dense,
    )


def _double(change: Change) -> Change:
    return type(change)(*(part.double() for part in change.tensors().values()))


def _qr(matrix: Float[Tensor, "n k"], where: str) -> tuple[Float[Tensor, "n m"], Float[Tensor, "m k"]]:
    q, r = torch.linalg.qr(_finite(matrix, where))
    return q, r


def _finite(matrix: Tensor, where: str) -> Tensor:
    if not bool(matrix.isfinite().all()):
        raise NumericalError(
            f"the edits of {where} hold NaN or infinity, of which no factors can be made. Take the edit back that "
            f"brought them (`errata log` names it as nonfinite), or export the weights as they are: --as full."
        )
    return matrix
