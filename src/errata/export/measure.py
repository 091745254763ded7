"""What an exported form is worth beside the edited model itself: measured on the edits' own prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from errata.editors.update import Change, overlay
from errata.edits import Fact
from errata.models import EditableModel
from errata.models.head import logits_at
from errata.probes.scoring import score
from errata.trajectory import Trajectory

__all__ = ["Fidelity", "fidelity", "taking"]

_PROMPTS = 200
_ROWS = 32


@dataclass(frozen=True)
class Fidelity:
    """How far an exported form is from the edited model.

    Args:
        logits: the largest absolute difference of any logit behind the prompts; NaN where either model is dead.
        prompts: behind how many prompts.
        lost: ids of the facts that the edited model states, every token the most probable, and the form does not.
    """

    logits: float
    prompts: int
    lost: tuple[str, ...]


def taking(model: EditableModel, facts: Sequence[Fact]) -> dict[str, bool]:
    """Say for every fact's id whether each token of its object is the most probable one behind its prompt."""
    scores = score(model, [(fact.text, fact.target_new) for fact in facts], [fact.join for fact in facts])
    return {fact.id: found.exact == 1.0 for fact, found in zip(facts, scores, strict=True)}


def fidelity(
    trajectory: Trajectory, changes: Mapping[str, Change], facts: Sequence[Fact], stated: Mapping[str, bool]
) -> Fidelity:
    """Compare the unedited model with some changes laid over it to the edited model.

    Args:
        trajectory: the edited model's.
        changes: what is laid over the unedited model.
        facts: the applied edits; the logits are compared behind at most 200 of their prompts, evenly chosen.
        stated: what `taking` says of the edited model.
    """
    prompts = [fact.text for fact in facts[:: max(1, -(-len(facts) // _PROMPTS))]]
    edited = _last_logits(trajectory.model, prompts)
    with trajectory.at(0) as base, overlay(base, changes):
        formed = _last_logits(base, prompts)
        lost = [fact for fact in facts if stated[fact.id]]
        still = taking(base, lost)
    difference = float((formed - edited).abs().max()) if prompts else 0.0
    return Fidelity(difference, len(prompts), tuple(fact.id for fact in lost if not still[fact.id]))


@torch.no_grad()
def _last_logits(model: EditableModel, prompts: Sequence[str]) -> Float[Tensor, "prompt vocab"]:
    found = []
    rows = model.encode(prompts)
    for i in range(0, len(rows), _ROWS):
        part = rows[i : i + _ROWS]
        found.append(logits_at(model, part, [(row, len(ids) - 1) for row, ids in enumerate(part)]).cpu())
    return torch.cat(found) if found else torch.zeros(0, 1)
