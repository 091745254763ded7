"""The papers that can be reproduced, by name."""

from importlib import import_module

from errata.errors import ConfigError, did_you_mean
from errata.studies.reproduce.work import Reproduction

__all__ = ["PAPERS", "reproduction"]

PAPERS = ("gupta2024", "lin2024")
"""Each is a module of this package with a `REPRODUCTION`; imported when asked for."""


def reproduction(name: str) -> Reproduction:
    """Return the reproduction of a paper.

    Raises:
        ConfigError: when there is none; names the nearest.
    """
    if name not in PAPERS:
        hint = did_you_mean(name, PAPERS)
        raise ConfigError(f"there is no reproduction of {name!r}; there are {', '.join(PAPERS)}.{hint}")
    found: Reproduction = import_module(f"errata.studies.reproduce.{name}").REPRODUCTION
    return found
