"""MEMIT with memory: keys of past edits stay in the least squares."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from errata.editors.history import PastKeys
from errata.editors.methods.memit import MEMIT
from errata.editors.statistics import SecondMoment
from errata.editors.update import Change, Update
from errata.editors.values import TargetValue
from errata.edits import Fact
from errata.models import EditableModel

__all__ = ["MEMITHistory"]


class MEMITHistory(MEMIT):
    """Keep earlier edits in the least squares: Δˡ = R Kᵀ (λC + K_pK_pᵀ + KKᵀ)⁻¹, K_p the keys of all past edits.

    The term that sequential editing needs and the published MEMIT lacks (as in AlphaEdit's `MEMIT_seq` and ENCORE).
    """

    name: ClassVar[str] = "memit-history"
    paper: ClassVar[str] = "2410.02355"

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._past: dict[str, PastKeys] = {}

    def _weigh(self, path: str, moment: SecondMoment) -> None:
        """Begin with no past keys beside λC."""
        self._systems[path] = self._past[path] = PastKeys(lambda: self._weighed(path, moment), f"the system of {path}")

    def _memory(
        self, model: EditableModel, batch: Sequence[Fact], changes: Mapping[str, Change], keys: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the keys, as each layer has met them."""
        return dict(keys)

    def remember(self, update: Update) -> None:
        """Add the applied keys to K_pK_pᵀ."""
        super().remember(update)
        for path, past in self._past.items():
            if path in update.memory:
                past.add(self._remembered(path, update.memory[path]))

    def _remembered(self, path: str, keys: Float[Tensor, "in fact"]) -> Float[Tensor, "d fact"]:
        """Return keys in the coordinates in which the layer's system is solved."""
        return keys.double()

    def state_dict(self) -> dict[str, Any]:
        """Return prefixes and past keys of every layer."""
        past = {f"past|{path}|{k}": v for path, p in self._past.items() for k, v in p.state_dict().items()}
        return {**super().state_dict(), **past}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore prefixes and past keys."""
        super().load_state_dict(state)
        for path, past in self._past.items():
            start = f"past|{path}|"
            past.load_state_dict({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})

    def _diagnostics(self, targets: Sequence[TargetValue]) -> dict[str, float]:
        """Return MEMIT's, and the backward error of the worst of the layers' solutions."""
        return {**super()._diagnostics(targets), "solve_error": max(past.error for past in self._past.values())}
