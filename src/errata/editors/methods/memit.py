"""MEMIT: spread many edits over several layers by least squares."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor

from errata.editors.base import Editor
from errata.editors.closed_form import ClosedFormSettings
from errata.editors.contexts import ContextSettings, sample_contexts
from errata.editors.keys import at_subject, mean_keys, place
from errata.editors.solve import Factored
from errata.editors.statistics import StatisticsStore
from errata.editors.update import Change, LowRank, Update, overlay
from errata.editors.values import TargetValue, ValueSettings, optimise_value
from errata.edits import Fact
from errata.models import EditableModel

__all__ = ["MEMIT", "MEMITSettings"]

_STARTS = ("The", "Therefore", "Because", "I", "You")


class MEMITSettings(ClosedFormSettings):
    """Settings of MEMIT. Defaults are those of kmeng01/memit for GPT2-XL unless said otherwise."""

    layers: tuple[int, ...] = Field(min_length=1)
    """The edited layers R, ascending; z* acts at the last. GPT2-XL 13 to 17, GPT-J 3 to 8 (0-indexed)."""
    covariance_weight: float = Field(default=20_000.0, gt=0)
    """λ, the weight of C against the keys of the batch (`mom2_update_weight`)."""
    value: ValueSettings = ValueSettings(clamp_norm_factor=0.75)
    """How z* is optimised."""
    contexts: ContextSettings = ContextSettings(lengths=((10, 5),), starts=_STARTS)
    """Five prefixes of ten tokens."""

    @field_validator("layers")
    @classmethod
    def _ascending(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if list(layers) != sorted(set(layers)):
            raise ValueError(f"layers must ascend without repeats, found {list(layers)}")
        return layers


class MEMIT(Editor):
    """Solve Δˡ = R Kᵀ (λC + KKᵀ)⁻¹ at each layer, from the lowest up (2210.07229, eq. 14 and algorithm 1).

    R = (z − hᴸ)/(L − l + 1) is what of the way to z* is left for this layer; keys and residuals are taken anew after
    each layer's change, here seen through an overlay instead of written.
    """

    name: ClassVar[str] = "memit"
    paper: ClassVar[str] = "2210.07229"
    Settings: ClassVar[type[MEMITSettings]] = MEMITSettings

    def __init__(self, settings: MEMITSettings) -> None:
        self.settings = settings
        self._templates: list[str] = []
        self._base: dict[str, Tensor] = {}
        self._systems: dict[str, Factored] = {}

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Sample the context prefixes and factor λC for each layer."""
        s = self.settings
        paths = [model.mlp_out(layer) for layer in s.layers]
        self._templates = sample_contexts(model, s.contexts, rng)
        moments = statistics.second_moments(model, s.layers, s.statistics)
        for path, moment in zip(paths, moments, strict=True):
            self._base[path] = s.covariance_weight * moment.ridged(s.ridge)
        self._systems = {}

    def _matrix(self, path: str) -> Float[Tensor, "in in"]:
        """Return what keys are weighed against beside the batch's own: λC."""
        return self._base[path]

    def _system(self, path: str) -> Factored:
        if path not in self._systems:
            self._systems[path] = Factored(self._matrix(path), f"the system of {path}")
        return self._systems[path]

    def propose(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return one low-rank change a layer, of rank ≤ the batch's size."""
        s = self.settings
        groups = [["{}"], self._templates]
        flat = [t for group in groups for t in group]
        top = s.layers[-1]
        targets = [optimise_value(model, fact, top, "block", flat, s.value) for fact in batch]
        z = torch.stack([t.vector for t in targets])
        bare = [place(model, fact) for fact in batch]

        changes: dict[str, Change] = {}
        memory: dict[str, Tensor] = {}
        for i, layer in enumerate(s.layers):
            path = model.mlp_out(layer)
            with overlay(model, changes):
                keys, _ = mean_keys(model, path, batch, groups)
                _, reached = at_subject(model, model.block_path(top), bare)
            residual = (z - reached).double().T / (len(s.layers) - i)
            right = self._system(path).solve_with(keys.T)
            changes[path] = LowRank(residual, right.T)
            memory[path] = keys.T
        return Update(changes, self._diagnostics(targets), self._memory(memory))

    def _memory(self, keys: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what of this batch's keys a later batch must know: nothing, in the published method."""
        return {}

    def _diagnostics(self, targets: Sequence[TargetValue]) -> dict[str, float]:
        return {
            "loss": sum(t.losses[-1] for t in targets) / len(targets),
            "target_probability": sum(t.probability for t in targets) / len(targets),
            "value_norm": max(float(t.vector.norm()) for t in targets),
            "initial_norm": max(float(t.initial.norm()) for t in targets),
            "condition": max(system.condition for system in self._systems.values()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the sampled prefixes."""
        return {"templates": list(self._templates)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sampled prefixes."""
        self._templates = list(state["templates"])
