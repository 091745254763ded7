"""Past keys in the least squares, at a cost that does not grow with the number of edits."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from errata.editors.solve import FactoredInPlace
from errata.errors import NumericalError

__all__ = ["PastKeys"]

_SHARE = 8  # by measurement: carrying d/8 keys costs about as much an edit as clearing them away costs a key
_TOLERANCE = 1e-12  # of the backward error: some thousand times what a fresh factorization leaves
_EVERY = 16  # by measurement: reading A for one residual takes 1.7 times as long as solving, so this is a tenth of it


class PastKeys:
    """Solve with A = A₀ + K_pK_pᵀ while K_p grows: O(d²) a key, factorizations included.

    Recent keys T stand beside a factored matrix F, A = F + TTᵀ, with G for which A⁻¹ = F⁻¹ − GGᵀ. A key k adds a column
    to both (Woodbury's identity): A⁻¹k / √(1 + kᵀA⁻¹k) to G. Working keys into the matrix costs a factorization, d³/3;
    it is done once they are more than d/8: 8/3 d² a key. It is done before that when accuracy asks for it: the backward
    error ‖K − (A + KKᵀ)X‖/(‖F‖‖X‖ + ‖K‖), with F's largest diagonal entry for ‖F‖, is measured at the first solution X
    after a factorization and after every 16th edit from there. Where it is above 1e-12, X is refined by one step, and
    every later solution is measured; where that does not suffice, the next edit finds the matrix factored anew.

    Args:
        begin: returns A₀, a new matrix, which is taken over; called again when a state without a past is restored.
        what: the matrix's name in error messages.

    Raises:
        NumericalError: when A, or I + KᵀA⁻¹K, is not positive definite to working precision.
    """

    _keys: Float[Tensor, "m d"]  # Tᵀ
    _carried: Float[Tensor, "m d"]  # Gᵀ
    _edits: int  # since the factorization
    _refining: bool
    _last: tuple[Tensor, Tensor, Tensor] | None  # keys K, A⁻¹K, and the Cholesky factor of I + KᵀA⁻¹K
    _found: tuple[bool, bool] | None  # of these keys, where measured: needed refinement; was inexact all the same

    def __init__(self, begin: Callable[[], Float[Tensor, "d d"]], what: str) -> None:
        self._begin = begin
        self._what = what
        self.factorizations = 0
        """How often a matrix has been factored."""
        self.error = 0.0
        """The backward error of the last solution that was measured."""
        matrix = begin()
        # Room for all that is ever carried: to join tensors at every edit took twice as long as to solve.
        self._room = matrix.new_empty(2, len(matrix) // _SHARE, len(matrix), dtype=torch.float64)
        self.restart(matrix)
        self._settled = False

    @property
    def condition(self) -> float:
        """A lower bound of the condition number of the factored part of A."""
        return self._system.condition

    def solve_with(self, K: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        """Return (A + KKᵀ)⁻¹K."""
        K = self._laid_out(K)
        Y, root = self._border(K)
        # Of Woodbury's identity: (A + KKᵀ)⁻¹K = A⁻¹K (I + KᵀA⁻¹K)⁻¹.
        X: Tensor = torch.cholesky_solve(Y.T, root).T
        if self._due():
            residual, self.error = self._residual(K, X)
            refine = self.error > _TOLERANCE
            if refine:
                Z = self.solve(residual)
                X = X + Z - X @ (K.T @ Z)
                _, self.error = self._residual(K, X)
            self._found = refine, self.error > _TOLERANCE
        return X

    def solve(self, B: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        """Return A⁻¹B, not measured."""
        return self._system.solve(B) - self._carried.T @ (self._carried @ B)

    def add(self, K: Float[Tensor, "d n"]) -> None:
        """Take up the keys of an applied edit.

        Those of a dead model, NaN or infinite, are left out: nothing could be solved with them ever after, and what is
        solved for such keys is NaN in any case.
        """
        K = self._laid_out(K)
        if not bool(torch.isfinite(K).all()):
            return
        if (len(self._keys) + K.shape[1]) * _SHARE > len(K):
            self.restart(self.matrix().addmm_(K, K.T))
            return
        Y, root = self._border(K)
        if self._due() and self._found is None:
            self.solve_with(K)  # what is found must not depend on who asked: a resumed run remembers without proposing
        refine, inexact = self._found or (False, False)
        past = len(self._keys)
        self._hold(past + K.shape[1])
        self._keys[past:] = K.T
        self._carried[past:] = torch.linalg.solve_triangular(root, Y.T, upper=False)
        self._edits, self._refining, self._last = self._edits + 1, self._refining or refine, None
        if inexact:
            self.restart(self.matrix())

    def restart(self, matrix: Float[Tensor, "d d"]) -> None:
        """Let this matrix, which is taken over, be A from here on: factor it, and begin with no keys beside it."""
        self._system = FactoredInPlace(matrix, self._what)
        self.factorizations += 1
        self._hold(0)
        self._edits, self._settled, self._refining, self._last, self.error = 0, True, False, None, 0.0

    def matrix(self) -> Float[Tensor, "d d"]:
        """Return A."""
        return self._system.matrix().addmm_(self._keys.T, self._keys)

    def state_dict(self) -> dict[str, Any]:
        """Return the keys beside the matrix, and the matrix with its factor once any are in it."""
        measured = {"edits": self._edits, "refining": self._refining, "error": self.error}
        beside = {"keys": self._keys.clone(), "carried": self._carried.clone(), **measured}
        return {**beside, **(self._system.tensors() if self._settled else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore A, so that the next solution is the very same."""
        if "factored" in state:
            self._system = FactoredInPlace.from_tensors(state, self._keys.device)
            self._settled = True
        elif self._settled:
            self.restart(self._begin())
            self._settled = False
        self._hold(len(state["keys"]))
        self._keys.copy_(state["keys"])
        self._carried.copy_(state["carried"])
        self._edits, self._refining, self.error = int(state["edits"]), bool(state["refining"]), float(state["error"])
        self._last = None

    def _hold(self, count: int) -> None:
        """Let so many keys stand beside the matrix: those that are there, and new ones to be filled in."""
        self._keys, self._carried = self._room[:, :count]

    def _laid_out(self, K: Float[Tensor, "d n"]) -> Float[Tensor, "d n"]:
        """Return K in float64, in the layout in which keys are read from disk: one key is contiguous in others too."""
        return K.to(self._keys).clone(memory_format=torch.contiguous_format)

    def _due(self) -> bool:
        """Return whether the next solution is to be measured."""
        return self._refining or self._edits % _EVERY == 0

    def _border(self, K: Float[Tensor, "d n"]) -> tuple[Float[Tensor, "d n"], Float[Tensor, "n n"]]:
        """Return A⁻¹K and the Cholesky factor of I + KᵀA⁻¹K."""
        # What is proposed is mostly applied, and its keys asked for again.
        if self._last is None or not torch.equal(self._last[0], K):
            Y = self.solve(K)
            inner = torch.eye(K.shape[1], dtype=K.dtype, device=K.device) + K.T @ Y
            self._last, self._found = (K, Y, self._root(inner)), None
        return self._last[1:]

    def _root(self, inner: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
        """Return the Cholesky factor of I + KᵀA⁻¹K; NaN where that holds NaN or infinity."""
        root: Tensor
        root, info = torch.linalg.cholesky_ex(inner)
        if int(info) == 0:
            return root
        if bool(torch.isfinite(inner).all()):
            raise NumericalError(
                f"{self._what}: I + KᵀA⁻¹K of {len(inner)} keys is not positive definite, so A⁻¹ is inexact: its "
                f"condition number is {self.condition:.1e} or more. Set `ridge` above 0 (1e-3 is a good start), or use "
                f"more text for the statistics."
            )
        return root.fill_(torch.nan)

    def _residual(self, K: Float[Tensor, "d n"], X: Float[Tensor, "d n"]) -> tuple[Float[Tensor, "d n"], float]:
        """Return K − (A + KKᵀ)X and the backward error."""
        residual = K - self._system.times(X) - self._keys.T @ (self._keys @ X) - K @ (K.T @ X)
        size = self._system.scale * X.norm() + K.norm()
        return residual, float(residual.norm() / size) if size else 0.0
