"""An editor that computes in no time: a rank-one change drawn from the fact and from what it remembers."""

from typing import Any

import torch

from errata.editors.base import Editor
from errata.editors.settings import EditorSettings
from errata.editors.update import LowRank, Update
from errata.errors import NumericalError

LAYER = 1


class ShoveSettings(EditorSettings):
    """Settings of the editor below."""

    layer: int = LAYER
    size: float = 1.0
    """‖ΔW‖ in hundredths of ‖W₀‖."""
    harmful: tuple[str, ...] = ()
    """Ids at which the update is 300 times as large."""
    breaks: tuple[str, ...] = ()
    """Ids at which the solve breaks down."""


class Shove(Editor):
    """Propose a rank-one change of a given size, drawn from the fact and from what is remembered."""

    name = "shove"
    paper = "none"
    Settings = ShoveSettings

    def __init__(self, settings: ShoveSettings) -> None:
        self.settings = settings
        self.remembered: list[int] = []

    def prepare(self, model, statistics, rng) -> None:
        """Nothing to prepare."""

    def propose(self, model, batch) -> Update:
        (fact,) = batch
        if fact.id in self.settings.breaks:
            raise NumericalError("the system is singular")
        path = model.mlp_out(self.settings.layer)
        out, width = model.weight(path).shape
        generator = torch.Generator().manual_seed(100 * int(fact.id) + len(self.remembered))
        left, right = (torch.randn(shape, generator=generator) for shape in ((out, 1), (1, width)))
        factor = 300.0 if fact.id in self.settings.harmful else 1.0
        scale = 0.01 * factor * self.settings.size * 5.0 / float(left.norm() * right.norm())
        return Update({path: LowRank(scale * left, right)}, memory={path: torch.tensor(float(fact.id))})

    def remember(self, update: Update) -> None:
        (number,) = (update.memory[path] for path in update.changes)
        self.remembered.append(int(number))

    def state_dict(self) -> dict[str, Any]:
        return {"remembered": list(self.remembered)}

    def load_state_dict(self, state) -> None:
        self.remembered = list(state["remembered"])


class ShovePoint:
    """The entry point under which the registry finds it."""

    load = staticmethod(lambda: Shove)
