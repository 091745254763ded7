"""What other packages add by entry points: a broken one is named and left out, and breaks nothing else."""

import warnings
from collections.abc import Iterable
from typing import Any, Protocol

__all__ = ["PluginWarning", "loaded"]


class PluginWarning(UserWarning):
    """Name an entry point that cannot be used, and why."""


class _Point(Protocol):
    def load(self) -> Any: ...


def loaded(points: Iterable[_Point], group: str, needed: Iterable[str] = ("name",)) -> dict[str, Any]:
    """Return what entry points give, by the `name` of each.

    Args:
        points: the entry points.
        group: theirs, for the warning.
        needed: attributes without which a thing is not what the group is for.
    """
    found: dict[str, Any] = {}
    for point in points:
        try:
            thing = point.load()
            for attribute in needed:
                getattr(thing, attribute)
            found[str(thing.name)] = thing
        # Whatever another package's code does when it is imported.
        except (Exception, SystemExit) as e:
            name, package = getattr(point, "name", repr(point)), getattr(getattr(point, "dist", None), "name", "")
            whose = f" of the package {package}" if package else ""
            why = f"{type(e).__name__}: {e}".strip(": ")
            warnings.warn(
                f"the plug-in {name!r}{whose} ({group}) cannot be used and is left out: {why}. Mend or uninstall it.",
                PluginWarning,
                stacklevel=2,
            )
    return found
