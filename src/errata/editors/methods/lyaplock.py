"""LyapLock: a queue weighs the knowledge to preserve, the more the longer it has been hurt beyond what is allowed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from errata.editors.history import PastKeys
from errata.editors.methods.memit import LayerProblem, MEMITSettings
from errata.editors.methods.memit_history import MEMITHistory
from errata.editors.statistics import SecondMoment, StatisticsStore
from errata.editors.strength import Weight
from errata.editors.update import Change, Dense, Update
from errata.edits import Fact
from errata.models import EditableModel

__all__ = ["LyapLock", "LyapLockSettings"]


class LyapLockSettings(MEMITSettings):
    """Settings of LyapLock. Defaults are those of its code for GPT2-XL unless said otherwise."""

    covariance_weight: Weight = 1_000.0
    """λ, the weight of C against the keys of edits (`mom2_update_weight`). 1,000 for all of its models."""
    allowance: float = Field(default=60.0, gt=0)
    """α: the preservation loss may on average be α times that of the first batch, D = α · D_base. 60 in its README."""


class LyapLock(MEMITHistory):
    """Solve for new, past and preserved knowledge at once, each with the values it is to have (2505.15702, eq. 13).

    Δ = [R Kᵀ + (V_p − W K_p)K_pᵀ + aZλ(W₀ − W)C] · [KKᵀ + K_pK_pᵀ + aZλC]⁻¹

    V_p are the values that past keys had right after their own edit, W₀ the unedited weights: the second and third term
    pull drifting values back, which MEMIT with past keys does not. After every batch the queue of each layer becomes
    Z ← max(Z + a(PL − D), Z_min), PL = tr((W − W₀) C (W − W₀)ᵀ) (algorithm 1): as long as PL stays below D on average
    nothing changes, and beyond it preservation weighs ever more. a = 1/√D and Z = Z_min = √D at first, so that aZ = 1;
    V = 1 and b = 0 of the paper have no settings, since its code never changes them. D comes from PL of the first batch
    that changes anything, before which aZ = 1 too.

    What past and preserved knowledge ask for by themselves are the weights W₀ + X with X A = (V_p − W₀K_p)K_pᵀ, where
    A = K_pK_pᵀ + aZλC. With E = X − (W − W₀) and Y = (A + KKᵀ)⁻¹K, the equation is Δ = E + (R − EK)Yᵀ. An edit changes
    X and XλC by products with Yᵀ, O(d²) a key as Y itself. Where aZ changes, which is every batch once PL exceeds D on
    average, A is factored and X solved for anew, at O(d³). PL is that of the weights W₀ + X + (R − EK)Yᵀ; where
    regularisers may change them it is computed densely.
    """

    name: ClassVar[str] = "lyaplock"
    paper: ClassVar[str] = "2505.15702"
    Settings: ClassVar[type[LyapLockSettings]] = LyapLockSettings
    settings: LyapLockSettings

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._base: dict[str, Float[Tensor, "in in"]] = {}  # λC
        self._unedited: dict[str, Float[Tensor, "out in"]] = {}
        self._gram: dict[str, Float[Tensor, "in in"]] = {}  # K_pK_pᵀ
        self._values: dict[str, Float[Tensor, "out in"]] = {}  # (V_p − W₀K_p)K_pᵀ
        self._wanted: dict[str, Float[Tensor, "out in"]] = {}  # X
        self._weighted: dict[str, Float[Tensor, "out in"]] = {}  # XλC
        self._queue: dict[str, Float[Tensor, " 2"]] = {}  # Z and D; zeros before the first batch
        self._parts_of: dict[str, tuple[Tensor, Tensor]] = {}  # R − EK and Y of the update that is being proposed

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Prepare as MEMIT does, keep W₀, and begin with no past."""
        super().prepare(model, statistics, rng)
        for path, C in self._base.items():
            self._unedited[path] = model.weight(path).clone()
            self._gram[path] = torch.zeros_like(C)
            for part in (self._values, self._wanted, self._weighted):
                part[path] = C.new_zeros(model.weight(path).shape)
            self._queue[path] = C.new_zeros(2)

    def _weigh(self, path: str, moment: SecondMoment) -> None:
        """Keep λC of a layer, and begin with no past keys beside it."""
        self._base[path] = C = self._weighed(path, moment)
        self._systems[path] = self._past[path] = PastKeys(C.clone, f"the system of {path}")

    def _solve(self, model: EditableModel, problem: LayerProblem) -> Change:
        """Return Δ of the equation above."""
        path, K = problem.path, problem.keys
        Y = self._past[path].solve_with(K)
        E = self._wanted[path] - self._drift(path, self._seen(model, path))
        F = problem.residual - E @ K
        self._parts_of[path] = F, Y
        return Dense(E + F @ Y.T)

    def _pressure(self, path: str) -> float:
        """Return aZ = Z/√D."""
        queue, allowed = self._queue[path].tolist()
        return queue / math.sqrt(allowed) if allowed else 1.0

    def _drift(self, path: str, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        return weight - self._unedited[path].double()

    def propose(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return the update, with what a later batch must know of each layer: keys, their new values, and PL."""
        update = super().propose(model, batch)
        memory, losses, pressures = dict(update.memory), [], []
        for path, change in update.changes.items():
            weight = model.weight(path).to(torch.float64, copy=True)
            change.add_to(weight)
            K = update.details[f"keys|{path}"].double().T
            drift, C = self._drift(path, weight), self._base[path]
            F, Y = self._parts_of.pop(path)
            weighted = drift @ C if self._regularisers else self._weighted[path] + F @ (C @ Y).T
            loss = (weighted * drift).sum() / self._weights[path]
            memory |= {f"values of {path}": weight @ K, f"loss of {path}": loss}
            losses.append(float(loss))
            pressures.append(self._pressure(path))
        diagnostics = {"preservation_loss": max(losses), "queue_pressure": max(pressures)}
        return replace(update, memory=memory, diagnostics={**update.diagnostics, **diagnostics})

    def remember(self, update: Update) -> None:
        """Add the applied keys and values to the past, and let the queues grow by how far the losses exceed D."""
        # Those of a dead model are left out, as its keys are.
        known = [p for p in self._past if p in update.memory and self._finite(update, p)]
        before = {p: (self._past[p].factorizations, self._pressure(p)) for p in known}
        for path in before:
            C = self._base[path]
            # In the layout in which they are read from disk: kernels for another round otherwise.
            layout = torch.contiguous_format
            names = path, f"values of {path}", f"loss of {path}"
            K, V, loss = (update.memory[name].to(C).clone(memory_format=layout) for name in names)
            moved = V - self._unedited[path].to(C) @ K
            Y = self._past[path].solve_with(K)
            more = moved - self._wanted[path] @ K
            self._gram[path].addmm_(K, K.T)
            self._values[path].addmm_(moved, K.T)
            self._wanted[path].addmm_(more, Y.T)
            self._weighted[path].addmm_(more, (C @ Y).T)
            self._queue[path] = self._longer(self._queue[path], float(loss))
        super().remember(update)
        for path, (factorizations, pressure) in before.items():
            past, C = self._past[path], self._base[path]
            if self._pressure(path) != pressure:
                past.restart(self._gram[path] + self._pressure(path) * C)
            if past.factorizations != factorizations:
                self._wanted[path] = past.solve(self._values[path].T).T.contiguous()
                self._weighted[path] = self._wanted[path] @ C

    def _finite(self, update: Update, path: str) -> bool:
        memory = (update.memory[name] for name in (path, f"values of {path}", f"loss of {path}"))
        return all(bool(torch.isfinite(part).all()) for part in memory)

    def _longer(self, queue: Float[Tensor, " 2"], loss: float) -> Float[Tensor, " 2"]:
        """Return Z and D after a batch with this preservation loss."""
        Z, allowed = queue.tolist()
        if not allowed:
            allowed = self.settings.allowance * loss
            Z = math.sqrt(allowed)
        if allowed:
            Z = max(Z + (loss - allowed) / math.sqrt(allowed), math.sqrt(allowed))
        return queue.new_tensor([Z, allowed])

    def state_dict(self) -> dict[str, Any]:
        """Return prefixes, past keys and values, and the queue of every layer."""
        parts = [(f"{name}|{path}", t) for name, part in self._kept().items() for path, t in part.items()]
        own = {name: t.clone() for name, t in parts if bool(t.any())}  # before the first batch all are zero
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore prefixes, past keys and values, and the queues."""
        super().load_state_dict(state)
        for name, part in self._kept().items():
            for path, old in part.items():
                stored = state.get(f"{name}|{path}")
                part[path] = torch.zeros_like(old) if stored is None else stored.to(old, copy=True)

    def _kept(self) -> dict[str, dict[str, Tensor]]:
        kept = {"gram": self._gram, "values": self._values, "wanted": self._wanted, "weighted": self._weighted}
        return {**kept, "queue": self._queue}
