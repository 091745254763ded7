"""Which settings tuning tries, and in which order."""

from collections.abc import Iterator, Mapping
from typing import Any

from errata.editors.settings import EditorSettings
from errata.models import EditableModel

__all__ = ["candidates"]

_DEPTHS = (0.1, 0.2, 0.3, 0.45, 0.6)
"""Where in the depth of a model edited layers may end; the published ones lie between 0.16 and 0.36."""

_OPTIONS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("realised", (0.5, 0.65, 0.9)),
    ("value.clamp_norm_factor", (0.75, 1.0, 1.5, 3.0)),
    ("value.steps", (30, 40)),
    ("steps", (50, 100)),
    ("value.kl_factor", (0.0625, 0.25, 1.0)),
    ("value.weight_decay", (0.05, 0.5)),
    ("free_share", (0.6, 0.9)),
)
"""Absolute values, by the path of the setting."""

_FACTORS: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("lr", (0.1, 0.3, 3.0)),
    ("epsilon", (0.3, 3.0)),
    ("value.lr", (0.3,)),
)
"""Multiples of the default: learning rates that span orders of magnitude between models."""


def candidates(default: EditorSettings, model: EditableModel) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield a setting's name and what to try for it, laid over the settings so far.

    Args:
        default: the method's settings, resolved for the model.
        model: whose depth the layers are chosen by.
    """
    whole = default.model_dump(mode="json")
    if layers := list(_layers(whole, model.n_layers)):
        yield "layers", layers
    for path, options in _OPTIONS:
        if (now := _at(whole, path)) is not None:
            yield path, [_nested(path, option) for option in options if option != now]
    for path, factors in _FACTORS:
        if isinstance(now := _at(whole, path), float):
            yield path, [_nested(path, now * factor) for factor in factors]


def _layers(whole: Mapping[str, Any], n_layers: int) -> Iterator[dict[str, Any]]:
    """Yield other layers: as many, ending at other depths; and for several layers fewer of them."""
    key = next((key for key in ("layers", "layer") if key in whole), None)
    if key is None:
        return
    now = whole[key]
    count = len(now) if key == "layers" else 1
    for top in dict.fromkeys(round(depth * (n_layers - 1)) for depth in _DEPTHS):
        chosen = list(range(max(0, top + 1 - count), top + 1))
        option = chosen if key == "layers" else top
        if option != now:
            yield {key: option}
    if count > 2:
        yield {key: [now[0], now[-1]]}


def _at(whole: Any, path: str) -> Any:
    for part in path.split("."):
        whole = whole.get(part) if isinstance(whole, Mapping) else None
    return whole


def _nested(path: str, value: Any) -> dict[str, Any]:
    *sections, last = path.split(".")
    found: dict[str, Any] = {last: value}
    for section in reversed(sections):
        found = {section: found}
    return found
