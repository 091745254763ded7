"""What a reproduction has to make before it can say anything: trainings, runs, and screens of single edits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from errata.errors import ConfigError, did_you_mean
from errata.studies.recipe import Recipe
from errata.studies.reproduce.claims import Claim
from errata.studies.reproduce.results import Results

__all__ = ["Exhibit", "Reproduction", "Size", "Training", "Work", "matching"]


@dataclass(frozen=True)
class Size:
    """How large a reproduction is.

    Args:
        model: a lab model, or another for which the reproduction has facts.
        edits: of each run; None for the reproduction's own number.
        samples: how often each run is made, with other edits each time.
    """

    model: str
    edits: int | None = None
    samples: int = 4


@dataclass(frozen=True)
class Training:
    """A network that a method needs: what `errata train` is asked for.

    Args:
        method: for which.
        model: for which model.
        skip: how many facts to leave out at the beginning: those that are edited.
        settings: KEY=VALUE over the recommended ones.
    """

    method: str
    model: str
    skip: int = 0
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """Everything there is to make, by name; a run's directory is `runs/NAME`, a screen's `screens/NAME`.

    Args:
        runs: recipe of each run.
        trainings: `trained/NAME`, which recipes name as their `method.checkpoint`.
        screens: recipe of each screen: every fact as the first edit of the clean model.
        files: content of the files that recipes name, by their place below the directory.
    """

    runs: Mapping[str, Recipe]
    trainings: Mapping[str, Training] = field(default_factory=dict)
    screens: Mapping[str, Recipe] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def needed(self, claims: Sequence[Claim]) -> "Work":
        """Return the part that some claims need."""
        runs = {name: self.runs[name] for name in matching(self.runs, claims)}
        screens = {name: self.screens[name] for name in matching(self.screens, claims)}
        return replace(self, runs=runs, screens=screens)


@dataclass(frozen=True)
class Exhibit:
    """Something to be read beside the claims, such as a collapsed model's text.

    Args:
        title: what it is.
        source: where it comes from: run directory, metric, step.
        lines: pairs of what was asked and what was said.
    """

    title: str
    source: str
    lines: tuple[tuple[str, str], ...]


def _no_exhibits(results: Results) -> Sequence[Exhibit]:
    return ()


@dataclass(frozen=True)
class Reproduction:
    """A paper's claims with the work that tests them.

    Args:
        name: of the command.
        title: the paper's.
        arxiv: its number.
        model: the default model.
        about: paragraphs on what these figures can and cannot say.
        work: lists what is to be made for a size, below a directory.
        claims: every claim.
        shown: the runs whose charts stand on the page, with their labels.
        samples: how often each run is made by default.
        exhibits: finds what else is to be read.
    """

    name: str
    title: str
    arxiv: str
    model: str
    about: Callable[[Size], Sequence[str]]
    work: Callable[[Size, Path], Work]
    claims: tuple[Claim, ...]
    shown: Mapping[str, str]
    samples: int = 4
    exhibits: Callable[[Results], Sequence[Exhibit]] = _no_exhibits

    def chosen(self, ids: Sequence[str]) -> tuple[Claim, ...]:
        """Return the claims of these ids; all when none is named.

        Raises:
            ConfigError: when there is no such claim; names those there are.
        """
        known = {claim.id: claim for claim in self.claims}
        for name in ids:
            if name not in known:
                hint = did_you_mean(name, known)
                raise ConfigError(f"{self.name} has no claim {name!r}.{hint} It has {', '.join(known)}.")
        return tuple(known[name] for name in ids) or self.claims


def matching(names: Mapping[str, Any], claims: Sequence[Claim]) -> list[str]:
    """Return the names that the claims need, in the order of `names`."""
    patterns = {pattern for claim in claims for pattern in claim.needs}
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
