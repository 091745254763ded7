"""ENCORE: stop optimising once the new object is the most probable, and hold down the norm of the change."""

from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from errata.editors.methods.memit import MEMITSettings
from errata.editors.methods.memit_history import MEMITHistory
from errata.editors.statistics import SecondMoment
from errata.editors.values import ValueSettings

__all__ = ["ENCORE", "ENCORESettings"]


class ENCORESettings(MEMITSettings):
    """Settings of ENCORE. Defaults are those of its code for GPT2-XL unless said otherwise."""

    norm_weight: float = Field(default=10.0, ge=0)
    """λ_n, the weight of ‖Δ‖²_F against the keys of the batch (`update_norm_lambda`). Llama-3 8B 20."""
    value: ValueSettings = ValueSettings(
        clamp_norm_factor=0.75, stop="most-probable", steps_after=3, stop_contexts="prefixed"
    )
    """How z* is optimised: until the object is the most probable under every prefix, and three steps more. The paper's
    own rule is `stop_contexts: all` with `steps_after: 0`: stop as soon as it is the most probable in every context."""


class ENCORE(MEMITHistory):
    """Solve Δˡ = R Kᵀ (λC + λ_n I + K_pK_pᵀ + KKᵀ)⁻¹, for values that are not optimised too far (2502.01636).

    MEMIT with its past keys and two regularisers: most-probable early stopping (MPES) of z*, and a penalty λ_n‖Δ‖²_F,
    the Frobenius-norm constraint. K_p are the keys as each layer has met them.
    """

    name: ClassVar[str] = "encore"
    paper: ClassVar[str] = "2502.01636"
    Settings: ClassVar[type[ENCORESettings]] = ENCORESettings
    settings: ENCORESettings

    def _weighed(self, path: str, moment: SecondMoment) -> Float[Tensor, "in in"]:
        """Return λC + λ_n I."""
        weighed = super()._weighed(path, moment)
        weighed.diagonal().add_(self.settings.norm_weight)
        return weighed
