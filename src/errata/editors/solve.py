"""The linear algebra that closed-form methods share, in float64."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from errata.errors import NumericalError

__all__ = ["Factored", "FactoredInPlace", "above", "null_space"]

_BLOCK = 512  # rows of a symmetric matrix taken at a time, of which one triangle is there


class Factored:
    """Hold the Cholesky factor of a symmetric positive definite A and solve with it.

    Args:
        matrix: A, cast to float64: the inverses are of matrices with condition numbers of 1e4 and more.
        what: the matrix's name in error messages.

    Raises:
        NumericalError: when A is not positive definite to working precision.
    """

    def __init__(self, matrix: Float[Tensor, "d d"], what: str) -> None:
        factor, info = torch.linalg.cholesky_ex(matrix.double())
        # NaN or infinity anywhere in a row reaches the row's diagonal entry.
        if int(info) != 0 or not bool(torch.isfinite(factor.diagonal()).all()):
            raise NumericalError(
                f"{what} ({matrix.shape[0]} × {matrix.shape[0]}) is not positive definite: fewer independent tokens "
                f"were counted than it has rows, or it holds NaN. Use more text for the statistics, or set `ridge` "
                f"above 0 (a fraction of the mean diagonal; 1e-3 is a good start)."
            )
        self._factor = factor

    @property
    def condition(self) -> float:
        """A lower bound of the condition number of A, from the factor's diagonal."""
        diagonal = self._factor.diagonal()
        return float((diagonal.max() / diagonal.min()) ** 2)

    def solve(self, b: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        """Return A⁻¹B."""
        # Not cholesky_solve, which copies the whole factor at every call.
        halfway = torch.linalg.solve_triangular(self._factor, b.double(), upper=False)
        solution: Tensor = torch.linalg.solve_triangular(self._factor.mT, halfway, upper=True)
        return solution

    def solve_with(self, K: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        """Return (A + KKᵀ)⁻¹K = A⁻¹K (I + KᵀA⁻¹K)⁻¹, at the cost of n right-hand sides."""
        K = K.double()
        X = self.solve(K)
        small = torch.eye(K.shape[1], dtype=torch.float64, device=K.device) + K.T @ X
        solution: Tensor = torch.linalg.solve(small, X, left=False)
        return solution


class FactoredInPlace(Factored):
    """Hold A and its Cholesky factor in one square: the factor below the diagonal, A above it and its diagonal apart.

    Args:
        matrix: A; in float64 it is this square from here on, so that beside it there is none but the factor's own, and
            that for a moment.
        what: its name in error messages.
    """

    def __init__(self, matrix: Float[Tensor, "d d"], what: str) -> None:
        # In the layout in which it is read from disk: kernels for the other round otherwise, and no resumed run may.
        matrix = matrix.double().contiguous()
        super().__init__(matrix, what)
        self._diagonal: Float[Tensor, " d"] = matrix.diagonal().clone()
        for start in range(0, len(matrix), _BLOCK):
            rows = slice(start, start + _BLOCK)
            matrix[rows] = matrix[rows].triu(start + 1) + self._factor[rows]
        self._factor = matrix

    @property
    def scale(self) -> float:
        """The largest diagonal entry of A, a lower bound of ‖A‖₂."""
        return float(self._diagonal.max())

    def matrix(self) -> Float[Tensor, "d d"]:
        """Return A."""
        above_diagonal = self._factor.triu(1)
        whole: Tensor = above_diagonal + above_diagonal.mT
        whole.diagonal().copy_(self._diagonal)
        return whole

    def times(self, X: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        """Return A X."""
        product: Tensor = self._diagonal[:, None] * X
        for start in range(0, len(X), _BLOCK):
            here, beyond = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
            corner, right = self._factor[here, here].triu(1), self._factor[here, beyond]
            product[here] += corner @ X[here] + corner.mT @ X[here] + right @ X[beyond]
            product[beyond] += right.mT @ X[here]
        return product

    def tensors(self) -> dict[str, Tensor]:
        """Return what to store."""
        return {"factored": self._factor, "diagonal": self._diagonal}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], device: torch.device) -> "FactoredInPlace":
        """Restore from `tensors()`, without factoring anew."""
        restored = cls.__new__(cls)
        restored._factor, restored._diagonal = (tensors[name].to(device) for name in ("factored", "diagonal"))
        return restored


def above(matrix: Float[Tensor, "out in"], bound: float) -> tuple[Float[Tensor, "out n"], Float[Tensor, " n"]]:
    """Return the left singular vectors U and the singular values σ > bound of M, from the eigenvalues of MMᵀ.

    Squaring costs digits of small σ alone: a relative error of 1e-16 (σ₁/σ)².
    """
    matrix = matrix.double()
    # No singular value exceeds the Frobenius norm: for small changes nothing needs to be decomposed.
    if not float(matrix.norm()) > bound:
        return matrix[:, :0], matrix[0, :0]
    if not bool(torch.isfinite(matrix).all()):
        raise NumericalError("a change of weights holds NaN or infinity and has no singular values")
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
    values = squares.clamp(min=0).sqrt()
    return vectors[:, values > bound], values[values > bound]


def null_space(matrix: Float[Tensor, "d d"], threshold: float, what: str) -> Float[Tensor, "d n"]:
    """Return the eigenvectors of a positive semidefinite A whose eigenvalues are below a threshold.

    Args:
        matrix: A.
        threshold: the eigenvalue from which on a direction counts as used.
        what: the matrix's name in error messages.

    Raises:
        NumericalError: when there is none.
    """
    values, vectors = torch.linalg.eigh(matrix.double())
    free: Tensor = vectors[:, values < threshold]
    if not free.shape[1]:
        raise NumericalError(
            f"{what} has no eigenvalue below {threshold:.3g}: the smallest is {float(values[0]):.3g}, the mean "
            f"{float(values.mean()):.3g}. No direction is free to change: raise the threshold."
        )
    return free
