"""The finished runs and screens of a reproduction, read when asked for."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from errata.analysis.frames import RunFrames, load_run
from errata.analysis.screening import Screening, load_screening
from errata.analysis.verdict import Verdict, judge

__all__ = ["Results"]


class Results:
    """Give what was measured to the claims; nothing here needs a model.

    Args:
        runs: directory of each finished run, by name.
        screens: directory of each finished screen, by name.
        seed: of the bootstraps.
        asked: the names of all runs and screens that were asked for; those that are there when None.
    """

    def __init__(
        self,
        runs: Mapping[str, Path],
        screens: Mapping[str, Path] | None = None,
        seed: int = 0,
        asked: Sequence[str] | None = None,
    ) -> None:
        self.paths = dict(runs)
        self.screens = dict(screens or {})
        self.asked = tuple(asked) if asked is not None else (*self.paths, *self.screens)
        self.seed = seed
        self._runs: dict[str, RunFrames] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._screens: dict[str, Screening] = {}

    def rng(self) -> np.random.Generator:
        """Return a fresh generator, so that a figure does not depend on what was asked for before it."""
        return np.random.default_rng(self.seed)

    def names(self, pattern: str) -> list[str]:
        """Return the names of the finished runs that match, such as "rome/*"."""
        return [name for name in self.paths if fnmatchcase(name, pattern)]

    def run(self, name: str) -> RunFrames:
        """Return a run's rows."""
        if name not in self._runs:
            self._runs[name] = load_run(self.paths[name])
        return self._runs[name]

    def verdict(self, name: str) -> Verdict:
        """Return a run's verdict: where it declines and collapses."""
        if name not in self._verdicts:
            self._verdicts[name] = judge(self.run(name), self.seed)
        return self._verdicts[name]

    def screening(self, name: str) -> Screening:
        """Return a screen's facts, each with what it did."""
        if name not in self._screens:
            self._screens[name] = load_screening(self.screens[name])
        return self._screens[name]

    def has(self, needs: tuple[str, ...]) -> bool:
        """Return whether there is something for every pattern."""
        return all(any(fnmatchcase(name, pattern) for name in self._there) for pattern in needs)

    def missing(self, needs: tuple[str, ...]) -> list[str]:
        """Return the names that match and were asked for, but are not there: they failed, or were not made."""
        wanted = [name for name in self.asked if any(fnmatchcase(name, pattern) for pattern in needs)]
        return [name for name in wanted if name not in self._there]

    @property
    def _there(self) -> list[str]:
        return [*self.paths, *self.screens]
