"""NSE: change only the most active neurons, in passes, toward values that the unedited model would need."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from errata.editors.methods.memit import LayerProblem, MEMITSettings
from errata.editors.methods.memit_history import MEMITHistory
from errata.editors.solve import Factored
from errata.editors.statistics import StatisticsStore
from errata.editors.strength import Weight
from errata.editors.update import Change, Dense, LowRank, Update, overlay, total
from errata.editors.values import TargetValue
from errata.edits import Fact
from errata.errors import NumericalError
from errata.models import EditableModel

__all__ = ["NSE", "NSESettings"]


class NSESettings(MEMITSettings):
    """Settings of NSE. Defaults are those of its code for GPT2-XL unless said otherwise."""

    unpublished: ClassVar[Mapping[str, Any]] = {
        **MEMITSettings.unpublished,
        "distance_unit": "state",
        "near": 0.25,
        "far": 2.0,
    }

    covariance_weight: Weight = 10_000.0
    """λ, the weight of C against the keys of edits (`mom2_update_weight`). GPT-J and Llama-3 8B 15,000."""
    neuron_share: float = Field(default=1.0, gt=0, le=1)
    """p: the most active neurons are changed whose activations make up this share of all (`neuron_threshold`). GPT-J
    0.8, the others 1: all of them."""
    passes: int = Field(default=2, ge=1)
    """How often the layers are gone through (`max_iterations` - 1: its code leaves the last iteration before the
    change)."""
    near: float = Field(default=35.0, ge=0)
    """α: a fact whose hidden state is this near to z* is left out of a pass (`alpha`). GPT-J 15, Llama-3 8B 2.5."""
    far: float = Field(default=150.0, gt=0)
    """A fact whose hidden state is this far from z* is left out as well (`upper_bound`). GPT-J 100, Llama-3 8B 50."""
    distance_unit: Literal["absolute", "state"] = "absolute"
    """In what `near` and `far` are measured: as they stand, as published, or as multiples of the length of a fact's own
    hidden state, which differs between models by far more than the published distances do."""
    values_from: Literal["unedited", "present"] = "unedited"
    """On which weights z* is optimised: the unedited ones (weights rewinding: the paper, and its code when it fills its
    cache of values before the first edit), or the present ones (its code without that cache)."""


class NSE(MEMITHistory):
    """Solve Δˡ = R K_Sᵀ (λC_SS + (K_pK_pᵀ)_SS + K_SK_Sᵀ)⁻¹ on the neurons S alone, several times over (2410.04045).

    A neuron is a column of W; S are those with the largest Σ|k| over the batch, as many as together stay within the
    share p of the whole sum. Every pass takes the facts that are still away from z*, and goes through the layers as
    MEMIT does, keys and S taken anew. Past keys are those of the model after the edit.
    """

    name: ClassVar[str] = "nse"
    paper: ClassVar[str] = "2410.04045"
    Settings: ClassVar[type[NSESettings]] = NSESettings
    settings: NSESettings

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._unedited: dict[str, Float[Tensor, "out in"]] = {}

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Prepare as MEMIT does, and keep W₀."""
        super().prepare(model, statistics, rng)
        self._unedited = {path: model.weight(path).clone() for path in map(model.mlp_out, self.settings.layers)}

    def _targets(self, model: EditableModel, batch: Sequence[Fact]) -> list[TargetValue]:
        """Return z* of every fact, optimised on the weights that the settings name."""
        rewound: dict[str, Change] = {}
        if self.settings.values_from == "unedited":
            drifts = {path: W0.double() - self._seen(model, path) for path, W0 in self._unedited.items()}
            rewound = {path: Dense(drift) for path, drift in drifts.items() if bool(drift.any())}
        with overlay(model, rewound):
            return super()._targets(model, batch)

    def _update(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return the sum of all passes."""
        targets = self._targets(model, batch)
        lengths = torch.ones(len(batch), dtype=torch.float64, device=model.device)
        if self.settings.distance_unit == "state":
            lengths = torch.stack([target.initial for target in targets]).double().norm(dim=1)
        changes: dict[str, Change] = {}
        seen: dict[str, Tensor] = {}
        passes, too_far = 0, 0
        for _ in range(self.settings.passes):
            with overlay(model, changes):
                distance = self._missing(model, self._ascent(model, batch).bare, targets).norm(dim=0)
            distance = distance / lengths
            too_far = int((distance >= self.settings.far).sum())
            chosen = ((distance > self.settings.near) & (distance < self.settings.far)).nonzero()[:, 0].tolist()
            if not chosen:
                break
            passes += 1
            facts, wanted = [batch[i] for i in chosen], [targets[i] for i in chosen]
            with overlay(model, changes):
                more, keys = self._ascend(model, facts, wanted)
            for path, change in more.items():
                changes[path] = total([(1.0, changes[path]), (1.0, change)]) if path in changes else change
                seen.setdefault(f"keys|{path}", keys[path].T)
        if not changes:
            raise NumericalError(
                f"no fact of the batch was between {self.settings.near:g} and {self.settings.far:g} of its z* (the "
                f"nearest at {float(distance.min()):.3g}): set `near` and `far` by the length of this model's states."
            )
        with overlay(model, changes):
            memory = self._ascent(model, batch).all_keys()
        diagnostics = self._diagnostics(targets) | {"passes": passes, "too_far": too_far}
        return Update(changes, diagnostics, memory, {"values": torch.stack([t.vector for t in targets]), **seen})

    def _solve(self, model: EditableModel, problem: LayerProblem) -> Change:
        """Return Δ, zero outside the columns S."""
        path, K = problem.path, problem.keys
        S = self._neurons(K)
        if len(S) == len(K):
            return super()._solve(model, problem)
        # Every batch has neurons of its own, and no factorization of theirs serves the next.
        system = Factored(self._past[path].matrix()[S][:, S], f"the system of {path}, on {len(S)} neurons,")
        right = torch.zeros_like(K.T)
        right[:, S] = system.solve_with(K[S]).T
        return LowRank(problem.residual, right)

    def _neurons(self, keys: Float[Tensor, "in fact"]) -> Int[Tensor, " chosen"]:
        """Return S, the most active neurons whose activations do not add up to more than the share; at least one."""
        scores = keys.abs().sum(1)
        ordered, indices = scores.sort(descending=True)
        if self.settings.neuron_share == 1:
            return indices  # whatever rounding makes of the sums
        within = int((ordered.cumsum(0) <= self.settings.neuron_share * scores.sum()).sum())
        return indices[: max(within, 1)]
