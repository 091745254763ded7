"""ROME as published, with the mixed keys that cause disabling edits: the known-bad control."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from errata.editors.closed_form import ClosedForm, RidgeSettings
from errata.editors.keys import mean_keys
from errata.editors.solve import Factored
from errata.editors.statistics import StatisticsStore
from errata.editors.update import LowRank, Update, overlay
from errata.edits import Fact
from errata.models import EditableModel

__all__ = ["ROME", "KeyAndOutput", "ROMESettings"]

KeyAndOutput = tuple[Float[Tensor, " in"], Float[Tensor, " out"]]
"""A key of the edited module and what the module now puts out for it."""


class ROMESettings(RidgeSettings):
    """Settings of the one-layer methods."""

    # 20 prefixes cost a real model about three times as long as six.
    unpublished: ClassVar[Mapping[str, Any]] = {
        "ridge": 1e-3,
        "subjects": 1.0,
        "contexts": {"lengths": ((5, 3), (10, 3))},
        "value": {"steps": 30, "settled": 0.002},
    }

    layer: int = Field(ge=0)
    """The edited layer l*, found by causal tracing. GPT2-XL 17, GPT-J 5 (0-indexed)."""
    use_covariance: bool = True
    """Whiten keys by C⁻¹ (`mom2_adjustment`). The published Llama files switch it off."""


class ROME(ClosedForm):
    """Insert v* at key k with the rank-one update ΔW = (v* − W k°)(C⁻¹k̄)ᵀ / (k̄ᵀC⁻¹k°) (2202.05262, eq. 2).

    k̄ is the key averaged over sampled prefixes, k° the key of the bare prompt. The paper has one key throughout; the
    published code mixes the two, and where they differ much the denominator comes near zero and a single edit
    disables the model (2403.07175). Use `r-rome`, unless this is what you study. The diagnostics tell it beforehand:
    `key_product` = k̄ᵀC⁻¹k°, and `key_overlap`, its ratio to k̄ᵀC⁻¹k̄: 1 with one key, near 0 before a ΔW that explodes.
    """

    name: ClassVar[str] = "rome"
    paper: ClassVar[str] = "2202.05262"
    Settings: ClassVar[type[ROMESettings]] = ROMESettings
    settings: ROMESettings

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._precision: Factored | None = None

    def _layers(self) -> Sequence[int]:
        return (self.settings.layer,)

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Sample the context prefixes and factor C."""
        super().prepare(model, statistics, rng)
        s = self.settings
        self._templates.insert(0, "{}")
        if s.use_covariance:
            (moment,) = self._second_moments(model, statistics, [s.layer])
            self._precision = Factored(moment.ridged(s.ridge), f"the covariance of layer {s.layer}")

    def _update(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Return one rank a fact; facts of a batch are taken in turn, each on top of those before it."""
        path = model.mlp_out(self.settings.layer)
        changes: list[LowRank] = []
        details: list[dict[str, Tensor]] = []
        diagnostics: list[dict[str, float]] = []
        for fact in batch:
            with overlay(model, {path: _joined(changes)} if changes else {}):
                change, seen, figures = self._rank_one(model, path, fact)
            changes.append(change)
            details.append(seen)
            diagnostics.append(figures)
        together = {name: torch.stack([seen[name] for seen in details]) for name in details[0]}
        return Update({path: _joined(changes)}, _of_all(diagnostics), details=together)

    def _rank_one(
        self, model: EditableModel, path: str, fact: Fact
    ) -> tuple[LowRank, dict[str, Tensor], dict[str, float]]:
        s = self.settings
        key, output = self._mean_key(model, path, fact)
        (target,) = self._optimised(model, [fact], s.layer, "mlp", self._templates)
        divisor_key, output = self._divisor(model, path, fact, (key, output))
        whitened = key.double()
        if self._precision is not None:
            whitened = self._precision.solve(whitened[:, None])[:, 0]
        # Scale does not matter (it divides out); unit length is what the authors report as u.
        right = whitened / whitened.norm()
        divisor = divisor_key.double() @ right
        residual = target.vector.double() - output.double()
        left = residual / divisor
        cosine = torch.nn.functional.cosine_similarity(key.double(), divisor_key.double(), dim=0)
        product = divisor_key.double() @ whitened
        diagnostics = {
            "loss": target.losses[-1],
            "target_probability": target.probability,
            "value_norm": float(target.vector.norm()),
            "initial_norm": float(target.initial.norm()),
            "residual_norm": float(residual.norm()),
            "key_norm": float(key.norm()),
            "divisor_key_norm": float(divisor_key.norm()),
            "divisor": float(divisor),
            "key_product": float(product),
            "key_overlap": float(product / (key.double() @ whitened)),
            "key_cosine": float(cosine),
        }
        if self._precision is not None:
            diagnostics["condition"] = self._precision.condition
        details = {
            f"keys|{path}": key,
            "values": target.vector,
            f"divisors|{path}": divisor_key,
            f"outputs|{path}": output,
        }
        return LowRank(left[:, None], right[None]), details, diagnostics

    def _mean_key(self, model: EditableModel, path: str, fact: Fact) -> KeyAndOutput:
        """Return the key under which v* is stored, and its present output: means over all contexts."""
        key, output = mean_keys(model, path, [fact], [[t] for t in self._templates], self.settings.fact_token)
        return key[0], output[0]

    def _divisor(self, model: EditableModel, path: str, fact: Fact, mean: KeyAndOutput) -> KeyAndOutput:
        """Return the key of the denominator and its present output: those of the bare prompt."""
        key, output = mean_keys(model, path, [fact], [["{}"]], self.settings.fact_token)
        return key[0], output[0]


def _of_all(facts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return a batch's figures: means of what was optimised, else those of the fact that comes nearest to disabling."""
    columns = {name: torch.tensor([fact[name] for fact in facts], dtype=torch.float64) for name in facts[0]}
    found = {name: column.max() for name, column in columns.items()}
    found |= {name: columns[name].mean() for name in ("loss", "target_probability")}
    found |= {name: columns[name][columns[name].abs().argmin()] for name in ("divisor", "key_product", "key_overlap")}
    found["key_cosine"] = columns["key_cosine"].min()
    return {name: float(value) for name, value in found.items()}


def _joined(changes: Sequence[LowRank]) -> LowRank:
    return LowRank(torch.cat([c.left for c in changes], 1), torch.cat([c.right for c in changes]))
