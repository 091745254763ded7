"""MEMIT: spread many edits over several layers by least squares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor

from errata.editors.behind_norm import before_norm
from errata.editors.closed_form import ClosedForm, ClosedFormSettings, RidgeSettings
from errata.editors.contexts import ContextSettings
from errata.editors.history import PastKeys
from errata.editors.keys import FactToken
from errata.editors.solve import Factored
from errata.editors.staged import Ascent, Staged
from errata.editors.statistics import SecondMoment, StatisticsStore
from errata.editors.strength import Weight, calibration_keys, key_sizes, weight_for
from errata.editors.update import Change, LowRank, Update
from errata.editors.values import TargetValue, ValueSettings
from errata.edits import Fact
from errata.models import EditableModel

__all__ = ["MEMIT", "LayerProblem", "MEMITSettings", "SpreadSettings"]

_STARTS = ("The", "Therefore", "Because", "I", "You")


class SpreadSettings(ClosedFormSettings):
    """What methods that spread edits over layers have in common. Defaults are those of kmeng01/memit for GPT2-XL."""

    unpublished: ClassVar[Mapping[str, Any]] = {
        "value": {"clamp_norm_factor": 1.0, "steps": 30, "settled": 0.002},
        "subjects": 1.0,
    }

    layers: tuple[int, ...] = Field(min_length=1)
    """The edited layers R, ascending; z* acts at the last. GPT2-XL 13 to 17, GPT-J 3 to 8 (0-indexed)."""
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

    @field_validator("fact_token")
    @classmethod
    def _unpadded(cls, token: FactToken) -> FactToken:
        if token == "last_padded":
            raise ValueError("last_padded is a form of ROME's code; MEMIT's has no such token. Use last")
        return token


class MEMITSettings(SpreadSettings, RidgeSettings):
    """Settings of MEMIT. Defaults are those of kmeng01/memit for GPT2-XL unless said otherwise."""

    # The ridge goes with the few tokens from which C is known where nobody says which text to read.
    unpublished: ClassVar[Mapping[str, Any]] = {
        **SpreadSettings.unpublished,
        "covariance_weight": "auto",
        "ridge": 1e-3,
    }

    covariance_weight: Weight = 20_000.0
    """λ, the weight of C against the keys of the batch (`mom2_update_weight`). "auto", the default where a model has no
    published settings: at each layer the λ at which the median key of well-known subjects realises the fraction
    `realised`."""
    realised: float = Field(default=0.9, gt=0, lt=1)
    """ρ, with an "auto" λ: how much of a wanted change one edit gets at one layer."""


@dataclass(frozen=True)
class LayerProblem:
    """What one layer is to do: give the keys K the outputs that they lack.

    Args:
        index: which of the edited layers, counted from the lowest.
        layer: its number in the model.
        path: of the edited module.
        keys: K, in float64, a fact a column.
        residual: R, in float64: this layer's part of what is missing, a fact a column.
    """

    index: int
    layer: int
    path: str
    keys: Float[Tensor, "in fact"]
    residual: Float[Tensor, "out fact"]


class MEMIT(ClosedForm):
    """Solve Δˡ = R Kᵀ (λC + KKᵀ)⁻¹ at each layer, from the lowest up (2210.07229, eq. 14 and algorithm 1).

    R = (z − hᴸ)/(L − l + 1) is what of the way to z* is left for this layer; keys and residuals are taken anew after
    each layer's change, here seen through an overlay instead of written.
    """

    name: ClassVar[str] = "memit"
    paper: ClassVar[str] = "2210.07229"
    Settings: ClassVar[type[SpreadSettings]] = MEMITSettings
    settings: SpreadSettings

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._systems: dict[str, Factored | PastKeys] = {}
        self._weights: dict[str, float] = {}  # λ of every edited module

    def _layers(self) -> Sequence[int]:
        return self.settings.layers

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Sample the context prefixes, and weigh and factor C of each layer."""
        super().prepare(model, statistics, rng)
        s = self.settings
        paths = [model.mlp_out(layer) for layer in s.layers]
        moments = self._second_moments(model, statistics, s.layers)
        self._weights = self._strengths(model, dict(zip(paths, moments, strict=True)))
        for path in paths:
            self._weigh(path, moments.pop(0))  # a C is let go once it is factored

    def _strengths(self, model: EditableModel, moments: Mapping[str, SecondMoment]) -> dict[str, float]:
        """Return λ of every edited module: as it is set, or calibrated on keys of well-known subjects."""
        s = self.settings
        if not isinstance(s, MEMITSettings):
            return {}
        if s.covariance_weight != "auto":
            return dict.fromkeys(moments, s.covariance_weight)
        keys = calibration_keys(model, s.layers, s.fact_token)
        sizes = {p: key_sizes(moment, s.ridge, keys[p], f"the covariance of {p}") for p, moment in moments.items()}
        return {path: weight_for(size, s.realised) for path, size in sizes.items()}

    def _weigh(self, path: str, moment: SecondMoment) -> None:
        """Factor what a layer's keys are weighed against."""
        self._systems[path] = Factored(self._weighed(path, moment), f"the system of {path}")

    def _weighed(self, path: str, moment: SecondMoment) -> Float[Tensor, "in in"]:
        """Return what keys are weighed against beside those of edits: λC."""
        assert isinstance(self.settings, MEMITSettings)
        return moment.ridged(self.settings.ridge).mul_(self._weights[path])

    def _update(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return one low-rank change a layer, of rank ≤ the batch's size."""
        targets = self._targets(model, batch)
        changes, keys = self._ascend(model, batch, targets)
        memory = self._memory(model, batch, changes, keys)
        details = {"values": torch.stack([t.vector for t in targets])}
        details |= {f"keys|{path}": K.T for path, K in keys.items()}
        norms = {"key_norm": max(float(K.norm(dim=0).max()) for K in keys.values())}
        return Update(changes, self._diagnostics(targets) | norms, memory, details)

    def _targets(self, model: EditableModel, batch: Sequence[Fact]) -> list[TargetValue]:
        """Return z* of every fact: what the last edited layer is to put out at its subject."""
        templates = ["{}", *self._templates]
        return self._optimised(model, batch, self.settings.layers[-1], "block", templates)

    def _ascend(
        self, model: EditableModel, batch: Sequence[Fact], targets: Sequence[TargetValue]
    ) -> tuple[dict[str, Change], dict[str, Float[Tensor, "in fact"]]]:
        """Return every layer's change, and the keys that it met."""
        changes: dict[str, Change] = {}
        keys: dict[str, Tensor] = {}
        ascent = self._ascent(model, batch)
        for index, layer in enumerate(self.settings.layers):
            path = model.mlp_out(layer)
            keys[path] = ascent.keys()
            R = self._residual(model, ascent.bare, targets, index)
            problem = LayerProblem(index, layer, path, keys[path], R)
            changes[path] = self._filtered(path, self._solve(model, problem))
            ascent.climb(changes[path])
        return changes, keys

    def _ascent(self, model: EditableModel, batch: Sequence[Fact]) -> Ascent:
        """Begin below the edited layers."""
        return Ascent(model, batch, self.settings.layers, self._templates, self.settings.fact_token)

    def _missing(self, model: EditableModel, bare: Staged, targets: Sequence[TargetValue]) -> Float[Tensor, "out fact"]:
        """Return z* − hᴸ, what the last edited layer does not yet put out."""
        reached = bare.highest(model.block_path(self.settings.layers[-1]))
        return (torch.stack([t.vector for t in targets]) - reached).double().T

    def _residual(
        self, model: EditableModel, bare: Staged, targets: Sequence[TargetValue], index: int
    ) -> Float[Tensor, "out fact"]:
        """Return one layer's part of what is missing, as its W is to put it out."""
        part = self._missing(model, bare, targets) / self._parts(index)
        norm = model.mlp_norm(bare.layer)
        return part if norm is None else before_norm(norm, bare.returned(), part)

    def _parts(self, index: int) -> float:
        """Return by what the missing part is divided at a layer: the number of layers that are left."""
        return float(len(self.settings.layers) - index)

    def _solve(self, model: EditableModel, problem: LayerProblem) -> Change:
        """Return R Kᵀ (A + KKᵀ)⁻¹, A being what keys are weighed against."""
        return LowRank(problem.residual, self._systems[problem.path].solve_with(problem.keys).T)

    def _memory(
        self, model: EditableModel, batch: Sequence[Fact], changes: Mapping[str, Change], keys: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return what of this batch's keys a later batch must know: nothing, in the published method."""
        return {}

    def _diagnostics(self, targets: Sequence[TargetValue]) -> dict[str, float]:
        conditions = [system.condition for system in self._systems.values()]
        return {
            "loss": sum(t.losses[-1] for t in targets) / len(targets),
            "target_probability": sum(t.probability for t in targets) / len(targets),
            "value_norm": max(float(t.vector.norm()) for t in targets),
            "initial_norm": max(float(t.initial.norm()) for t in targets),
            "residual_norm": max(float((t.vector - t.initial).norm()) for t in targets),
            **({"covariance_weight": fmean(self._weights.values())} if self._weights else {}),
            **({"condition": max(conditions)} if conditions else {}),
        }
