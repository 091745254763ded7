"""MEMIT with memory: keys of past edits stay in the least squares."""

from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from errata.editors.methods.memit import MEMIT, MEMITSettings
from errata.editors.statistics import StatisticsStore
from errata.editors.update import Update
from errata.models import EditableModel

__all__ = ["MEMITHistory"]


class MEMITHistory(MEMIT):
    """Keep earlier edits in the least squares: Δˡ = R Kᵀ (λC + K_pK_pᵀ + KKᵀ)⁻¹, K_p the keys of all past edits.

    The term that sequential editing needs and the published MEMIT lacks (as in AlphaEdit's `MEMIT_seq` and ENCORE).
    """

    name: ClassVar[str] = "memit-history"
    paper: ClassVar[str] = "2410.02355"

    def __init__(self, settings: MEMITSettings) -> None:
        super().__init__(settings)
        self._past: dict[str, Tensor] = {}

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Prepare as MEMIT does, with no past."""
        super().prepare(model, statistics, rng)
        self._past = {path: torch.zeros_like(matrix) for path, matrix in self._base.items()}

    def _matrix(self, path: str) -> Float[Tensor, "in in"]:
        """Return λC + K_pK_pᵀ."""
        return self._base[path] + self._past[path]

    def _memory(self, keys: dict[str, Tensor]) -> dict[str, Tensor]:
        return keys

    def remember(self, update: Update) -> None:
        """Add the applied keys to K_pK_pᵀ."""
        for path, keys in update.memory.items():
            past = keys.to(self._past[path])
            self._past[path] += past @ past.T
            self._systems.pop(path, None)

    def state_dict(self) -> dict[str, Any]:
        """Return prefixes and K_pK_pᵀ of every layer."""
        return {**super().state_dict(), **{f"past|{path}": t.clone() for path, t in self._past.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore prefixes and K_pK_pᵀ."""
        super().load_state_dict(state)
        self._past = {path: state[f"past|{path}"].to(base, copy=True) for path, base in self._base.items()}
        self._systems = {}
