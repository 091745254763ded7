"""Side memories of one weight: changes kept beside it in shards, which are merged when they are full."""

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.activations import ACT2FN

from errata.editors.ties import ties
from errata.models import EditableModel
from errata.models.prompts import PromptSpans

__all__ = ["RECORD", "SideMemory", "activation", "margins", "nonlinearity", "through"]

RECORD = ("change", "activation", "shard", "edits")
"""What is remembered of one edit."""


def through(change: Float[Tensor, "out in"], received: Tensor) -> Tensor:
    """Return A(x)(W' − W)."""
    return received.to(change) @ change.T


def activation(
    moved: Float[Tensor, "row pos out"],
    output: Float[Tensor, "row pos out"],
    spans: PromptSpans,
    nonlinearity: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, " row"]:
    """Return Δ(x) = ‖A(x)(W' − W)‖, averaged over the tokens of each row's prompt (2405.14768, eq. 3).

    Args:
        moved: A(x)(W' − W).
        output: A(x)W, which counts only with a nonlinearity.
        spans: where each row's prompt begins and ends.
        nonlinearity: applied to both outputs before their distance is taken, as in the published code.
    """
    if nonlinearity is not None:
        moved = nonlinearity(output + moved) - nonlinearity(output)
    at = torch.arange(moved.shape[1], device=moved.device)
    mine = (at >= spans.begins[:, None]) & (at <= spans.ends[:, None])
    size: Tensor = (moved.norm(dim=-1) * mine).sum(1) / mine.sum(1).clamp(min=1)
    return size


def nonlinearity(model: EditableModel) -> Callable[[Tensor], Tensor]:
    """Return the function by which the model's feed-forward layers are not linear."""
    config = model.model.config
    found: Callable[[Tensor], Tensor] = ACT2FN[getattr(config, "hidden_act", None) or config.activation_function]
    return found


def margins(
    inside: Float[Tensor, " prompt"], outside: Float[Tensor, " text"], alpha: float, beta: float, gamma: float
) -> Float[Tensor, ""]:
    """Return max(0, Δ(x_i) − α) + max(0, β − Δ(x_e)) + max(0, γ − Δ(x_e) + Δ(x_i)) (2405.14768, eq. 4).

    Each is a mean over what is positive in it, as in the published code; 0 when nothing is.

    Args:
        inside: Δ(x_e), the edit's prompts.
        outside: Δ(x_i), an irrelevant text.
        alpha: α.
        beta: β.
        gamma: γ.
    """

    def hinge(x: Tensor) -> Tensor:
        return x.clamp(min=0).sum() / (x > 0).sum().clamp(min=1)

    return hinge(outside - inside + gamma) + hinge(outside - alpha) + hinge(beta - inside)


class SideMemory:
    """Changes W' − W, each with the least activation ε of the edits in it.

    Edit n belongs to shard n // save_every and to group n // merge_every; the shards of a full group become one change.

    Args:
        like: W, whose shape and device the changes have, in the precision in which they are kept.
        seed: of the masks.
        ratio: ρ, the fraction of its entries that a shard may change.
        save_every: edits in a shard.
        merge_every: edits in a group.
        fold: merge a full group with those before it into one change; else every group keeps its own.
        density: what TIES keeps of each shard.
    """

    def __init__(
        self,
        like: Float[Tensor, "out in"],
        seed: int,
        ratio: float,
        save_every: int,
        merge_every: int,
        *,
        fold: bool,
        density: float,
    ) -> None:
        self._like = torch.zeros_like(like, memory_format=torch.contiguous_format)
        self.seed, self._ratio = seed, ratio
        self._save_every, self._merge_every = save_every, merge_every
        self._fold, self._density = fold, density
        self.edits = 0
        self.changes: dict[str, Float[Tensor, "out in"]] = {}
        """Merged changes, "merged|group", and shards not yet merged, "shard|number"."""
        self.least: dict[str, float] = {}

    def shard(self) -> int:
        """Return the number of the shard that the next edit belongs to."""
        return self.edits // self._save_every

    def mask(self, shard: int) -> Bool[Tensor, "out in"]:
        """Return the random mask of the entries that a shard may change; the same whenever it is asked for."""
        generator = torch.Generator().manual_seed(self.seed + shard)
        return (torch.rand(self._like.shape, generator=generator) < self._ratio).to(self._like.device)

    def present(self) -> Float[Tensor, "out in"]:
        """Return what the next edit's shard has changed so far."""
        return self.changes.get(f"shard|{self.shard()}", self._like)

    def chosen(self, sizes: Float[Tensor, "change row"], ratio: float) -> Int[Tensor, " row"]:
        """Return by number the change with the largest activation of those above `ratio` times their ε; −1 for none."""
        needed = ratio * sizes.new_tensor(list(self.least.values()))
        size, chosen = torch.where(sizes > needed[:, None], sizes, -torch.inf).max(0)
        return torch.where(size > -torch.inf, chosen, -1)

    def fork(self) -> Self:
        """Return one that grows by itself; they share the changes so far, into which nothing is ever written."""
        twin = copy(self)
        twin.changes, twin.least = dict(self.changes), dict(self.least)
        return twin

    def record(self, change: Float[Tensor, "out in"], activation: Float[Tensor, ""]) -> dict[str, Tensor]:
        """Return what to remember (`RECORD`), for `add`, of an edit that changes its shard's masked entries.

        Args:
            change: what it adds to W'.
            activation: its own.
        """
        shard = self.shard()
        known = (change[self.mask(shard)], activation.double(), torch.tensor(shard), torch.tensor(self.edits + 1))
        return dict(zip(RECORD, known, strict=True))

    def add(self, memory: Mapping[str, Tensor]) -> None:
        """Add what `record` returned to its shard, and merge the groups that are complete."""
        shard, activation = int(memory["shard"]), float(memory["activation"])
        # Where the edit that completed a group has been undone, the next one finds its shards still there.
        self._merge(shard * self._save_every // self._merge_every)
        name = f"shard|{shard}"
        change = self.changes.get(name, self._like).clone()
        change[self.mask(shard)] += memory["change"].to(change)
        self.changes[name] = change
        self.least[name] = min(self.least.get(name, activation), activation)
        self.edits = int(memory["edits"])
        self._merge(self.edits // self._merge_every)

    def _merge(self, before: int) -> None:
        """Merge the shards of the groups below `before`."""
        shards = [n for n in self.changes if n.startswith("shard|")]
        for group in range(before):
            full = [n for n in shards if int(n.split("|")[1]) * self._save_every // self._merge_every == group]
            if not full:
                continue
            earlier = [n for n in self.changes if n.startswith("merged|")] if self._fold else []
            # EasyEdit's weights: 1 in all for shards alone, 0.4 beside what has been merged before.
            weights = [(0.4 if earlier else 1.0) / len(full)] * len(full) + [0.6] * len(earlier)
            merged = ties([self.changes[n] for n in full + earlier], weights, self._density)
            least = min(self.least[n] for n in full + earlier)
            for name in full + earlier:
                del self.changes[name], self.least[name]
            self.changes[f"merged|{group}"], self.least[f"merged|{group}"] = merged, least

    def state_dict(self) -> dict[str, Any]:
        """Return all changes, and what is known of them."""
        changes = {f"change|{name}": change.clone() for name, change in self.changes.items()}
        return {**changes, "least": dict(self.least), "edits": self.edits, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.least, self.edits, self.seed = dict(state["least"]), state["edits"], state["seed"]
        self.changes = {name: state[f"change|{name}"].to(self._like, copy=True) for name in self.least}
