"""One method with several settings, of which a guard takes the first that harms little enough."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from errata.editors.base import Editor
from errata.editors.statistics import StatisticsStore
from errata.editors.update import Update
from errata.edits import Fact
from errata.errors import ConfigError
from errata.models import EditableModel

__all__ = ["Ladder"]


class Ladder(Editor):
    """Hold editors of one method; all of them remember every update, whichever proposed it.

    Args:
        rungs: the method with its own settings, then with those to be tried where these cost too much.

    Raises:
        ConfigError: when the method works beside the weights: two of them would answer at once.
    """

    def __init__(self, rungs: Sequence[Editor]) -> None:
        first = rungs[0]
        if type(first).attach is not Editor.attach:
            raise ConfigError(
                f"guard.retry: {first.name} works beside the weights and can be tried with one setting only."
            )
        self.rungs = tuple(rungs)
        self.name, self.paper, self.Settings = first.name, first.paper, first.Settings
        self.settings = first.settings

    def prepare(self, model: EditableModel, statistics: StatisticsStore, rng: Random) -> None:
        """Prepare all; the first draws what it would draw alone."""
        for rung in self.rungs:
            rung.prepare(model, statistics, rng)

    def propose(self, model: EditableModel, batch: Sequence[Fact]) -> Update:
        """Propose with the method's own settings."""
        return self.rungs[0].propose(model, batch)

    def remember(self, update: Update) -> None:
        """Let all take note."""
        for rung in self.rungs:
            rung.remember(update)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all; that of the first under its own names."""
        later = {
            f"setting|{number}|{name}": value
            for number, rung in enumerate(self.rungs[1:], 1)
            for name, value in rung.state_dict().items()
        }
        return {**self.rungs[0].state_dict(), **later}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore all."""
        self.rungs[0].load_state_dict({k: v for k, v in state.items() if not k.startswith("setting|")})
        for number, rung in enumerate(self.rungs[1:], 1):
            start = f"setting|{number}|"
            rung.load_state_dict({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})
