"""Find probes by name."""

import importlib
import inspect
import pkgutil
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from errata.errors import ConfigError, did_you_mean
from errata.plugins import loaded

# Analysis reads rows without a model: importing `errata.probes` must not import torch.
if TYPE_CHECKING:
    from errata.probes.base import Probe

__all__ = ["probe_class", "probes"]


def probes() -> "dict[str, type[Probe]]":
    """Return every probe by name: the files of this folder, and other packages' `errata.probes` entry points."""
    package = __name__.rpartition(".")[0]
    found: dict[str, type[Probe]] = {}
    cls: Any
    for info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        module = importlib.import_module(f"{package}.{info.name}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == module.__name__ and "name" in vars(cls):
                found[cls.name] = cls
    found |= loaded(entry_points(group="errata.probes"), "errata.probes", ("name", "Settings", "measure"))
    return dict(sorted(found.items()))


def probe_class(name: str) -> "type[Probe]":
    """Return the probe called `name`.

    Raises:
        ConfigError: when there is none; names the nearest.
    """
    known = probes()
    if name not in known:
        hint = did_you_mean(name, known)
        raise ConfigError(f"probes: there is no probe {name!r}; known probes: {', '.join(known)}.{hint}")
    return known[name]
