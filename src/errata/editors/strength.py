"""The strength of a closed form: how much of a wanted change one edit gets, and the weight of C that gives so much."""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from errata.editors.keys import FactToken
from errata.editors.solve import Factored
from errata.editors.staged import Ascent
from errata.editors.statistics import SecondMoment
from errata.edits import Fact
from errata.errors import StatisticsError
from errata.models import EditableModel

__all__ = ["Weight", "calibration_facts", "calibration_keys", "key_sizes", "realised_fraction", "weight_for"]

_PREFIXES = (
    "The weather was cold, and the streets were empty. {}",
    "Therefore, we decided to look at the numbers again. {}",
    "Because of this, the meeting was moved to Monday. {}",
    "I have never seen so many people in one room. {}",
    "You can find more about it in the next chapter. {}",
)

Weight = Annotated[float, Field(gt=0)] | Literal["auto"]
"""λ, or "auto": the λ at which an edit realises the fraction that the setting `realised` names."""


def realised_fraction(size: Float[Tensor, " key"], weight: float) -> Float[Tensor, " key"]:
    """Return ρ = kᵀ(λC)⁻¹k / (1 + kᵀ(λC)⁻¹k), the part of the residual r that Δ = r kᵀ(λC + kkᵀ)⁻¹ gives to Δk.

    ρ does not depend on the width of a model or on the length of its keys, as λ does. Of MEMIT's published settings
    (2210.07229) λ = 15,000 on keys of 16,384 gives GPT-J a ρ of about 0.5.

    Args:
        size: kᵀC⁻¹k of each key.
        weight: λ.
    """
    return size / (size + weight)


def weight_for(size: Float[Tensor, " key"], realised: float) -> float:
    """Return the λ at which the median key realises a fraction ρ: λ = median(kᵀC⁻¹k) (1 − ρ)/ρ.

    Args:
        size: kᵀC⁻¹k of each key.
        realised: ρ, between 0 and 1.

    Raises:
        StatisticsError: when keys or C are not finite, so that no λ fits.

    Example:
        >>> weight_for(torch.tensor([1.0, 4.0, 9.0]), 0.5)
        4.0
    """
    median = float(size.median())
    if not 0 < median < float("inf"):
        raise StatisticsError(
            f"the strength cannot be set for this model: kᵀC⁻¹k of its keys is {median}, but a positive number is "
            f"needed. The model may hold NaN, or its keys may be zero. Set covariance_weight yourself."
        )
    return median * (1 - realised) / realised


def key_sizes(moment: SecondMoment, ridge: float, keys: Float[Tensor, "in key"], what: str) -> Float[Tensor, " key"]:
    """Return kᵀC⁻¹k of keys, a column each, in float64.

    Args:
        moment: C.
        ridge: added to C, see `SecondMoment.ridged`.
        keys: the keys.
        what: C's name in error messages.
    """
    size: Tensor = (keys * Factored(moment.ridged(ridge), what).solve(keys)).sum(0)
    return size


def calibration_keys(
    model: EditableModel, layers: Sequence[int], token: FactToken
) -> dict[str, Float[Tensor, "in key"]]:
    """Return the keys of some well-known subjects at every layer, as an edit of facts about them would meet them.

    The prefixes are fixed: with sampled ones the strength would depend on what was drawn.

    Args:
        model: the unedited model.
        layers: the edited layers, ascending.
        token: where a fact is looked up.
    """
    return Ascent(model, calibration_facts(), layers, _PREFIXES, token).all_keys()


def calibration_facts() -> list[Fact]:
    """Return well-known facts of many kinds, each with another object, paraphrases and neighbors, written for this.

    No data set of edits holds them, so that settings found on them are not tuned to one.
    """
    text = (files("errata.editors") / "calibration.jsonl").read_text(encoding="utf-8")
    return [Fact.from_mapping(json.loads(line), str(number)) for number, line in enumerate(text.splitlines())]
