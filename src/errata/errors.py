"""Errors a user can cause. Each message says what was found, what was expected, and what to do next.

    ErrataError
    ├── ConfigError             a recipe or option that does not make sense
    ├── EditDataError           a malformed fact; names the record
    ├── ModelError              a model that cannot be found, read or used
    │   └── UnsupportedModelError   an architecture without a family file
    ├── StatisticsError         covariance that cannot be computed or read
    ├── NumericalError          a solve that broke down
    ├── RunError                a run directory that is missing, foreign or damaged
    │   └── ResumeError         a run that cannot be continued with this model or these edits
    ├── AnalysisError           rows that do not suffice for what was asked
    ├── ParityError             a golden case that cannot be read or run
    └── MissingExtraError       an optional dependency that is not installed

The command line prints them without a traceback; any other exception is a bug and keeps its own.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "AnalysisError",
    "ConfigError",
    "EditDataError",
    "ErrataError",
    "MissingExtraError",
    "ModelError",
    "NumericalError",
    "ParityError",
    "ResumeError",
    "RunError",
    "StatisticsError",
    "UnsupportedModelError",
    "did_you_mean",
]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence, with a space before it, that names the nearest of the known names; "" where none is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" Did you mean {near[0]!r}?" if near else ""


class ErrataError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(ErrataError):
    """A recipe or option that does not make sense."""


class EditDataError(ErrataError):
    """A malformed fact or data file; the message names the record."""


class ModelError(ErrataError):
    """A model that cannot be found, read or used."""


class UnsupportedModelError(ModelError):
    """An architecture for which no family is declared."""


class StatisticsError(ErrataError):
    """Covariance statistics that cannot be computed or read."""


class NumericalError(ErrataError):
    """A computation that broke down numerically."""


class RunError(ErrataError):
    """A run directory that is missing, foreign or damaged."""


class ResumeError(RunError):
    """A run that cannot be continued with this model or these edits."""


class AnalysisError(ErrataError):
    """Rows that do not suffice for the question asked."""


class ParityError(ErrataError):
    """A golden case that cannot be read, or has no method of ours."""


class MissingExtraError(ErrataError):
    """An optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional dependency. Install it with: pip install 'errata[{extra}]'")
