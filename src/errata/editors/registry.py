"""Find editing methods by name and resolve their settings for a model."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import reduce
from importlib.metadata import entry_points
from pathlib import Path
from types import NoneType
from typing import Any, cast, get_args

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from errata.editors import methods
from errata.editors.base import Editor
from errata.editors.settings import EditorSettings
from errata.editors.tuned import tuned
from errata.errors import ConfigError, did_you_mean
from errata.models import EditableModel
from errata.plugins import loaded
from errata.validation import explain

__all__ = [
    "editor_class",
    "editors",
    "found",
    "merge",
    "origin_of_settings",
    "published",
    "published_models",
    "resolve_settings",
]


def editors() -> dict[str, type[Editor]]:
    """Return every method by name: the files under `editors/methods/`, and other packages' `errata.editors`."""
    found: dict[str, type[Editor]] = {}
    for info in pkgutil.iter_modules(methods.__path__):
        module = importlib.import_module(f"{methods.__name__}.{info.name}")
        for value in vars(module).values():
            if inspect.isclass(value) and value.__module__ == module.__name__ and "name" in vars(value):
                cls = cast(type[Editor], value)
                found[cls.name] = cls
    found |= loaded(entry_points(group="errata.editors"), "errata.editors", ("name", "Settings", "propose"))
    return dict(sorted(found.items()))


def editor_class(name: str) -> type[Editor]:
    """Return the method called `name`.

    Raises:
        ConfigError: when there is none; names the nearest.
    """
    known = editors()
    if name not in known:
        hint = did_you_mean(name, known)
        raise ConfigError(f"method.name is {name!r}; known methods: {', '.join(known)}.{hint}")
    return known[name]


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `high` over `low`, section by section."""
    out = dict(low)
    for key, value in high.items():
        old = out.get(key)
        out[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def published(model: EditableModel) -> dict[str, Any]:
    """Return the published settings whose `match` fits the model's configuration, per method; {} when none does."""
    return _matching(model, published_models())


def found(model: EditableModel) -> dict[str, Any]:
    """Return settings that were found for the model and are shipped, per method; {} when there are none.

    They are laid over what suits every unpublished model.
    """
    return _matching(model, _collection("found"))


def published_models() -> dict[str, dict[str, Any]]:
    """Return by the model's name what its configuration must `match`, and the published settings of `methods`."""
    return _collection("published")


def _collection(folder: str) -> dict[str, dict[str, Any]]:
    files = sorted((Path(__file__).parent / folder).glob("*.yaml"))
    return {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}


def _matching(model: EditableModel, collection: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    config = model.model.config.to_dict()
    fitting = (r["methods"] for r in collection.values() if all(config.get(k) == v for k, v in r["match"].items()))
    return next(fitting, {})


def resolve_settings(
    name: str, model: EditableModel, chosen: Mapping[str, Any] | None = None, *, untuned: bool = False
) -> EditorSettings:
    """Resolve a method's settings, each place over those before it; a section given in part keeps the rest.

    The places: the method's defaults, layers by depth and what else suits an unpublished model, settings published for
    this model or found and shipped for it, its own `editing.json`, what `errata tune` has found (where none are
    published: a paper's recipe means the same everywhere), and the user's choice.

    Args:
        name: the method.
        model: the model to be edited.
        chosen: the user's settings.
        untuned: leave out what `errata tune` has found.

    Raises:
        ConfigError: when a setting is unknown or out of range; names it and the nearest known one.
    """
    cls = editor_class(name)
    layers = [
        _defaults(cls.Settings),
        {} if any(name in records for records in (published(model), model.settings)) else cls.Settings.unpublished,
        _by_depth(model, cls.Settings),
        *(_entry(name, cls.Settings, s) for s in (published(model), found(model), model.settings)),
        {} if untuned else _entry(name, cls.Settings, _tuned(name, model)),
    ]
    fields = cls.Settings.model_fields
    # null stands for "not given" where it is no value of the setting.
    given = {
        k: v for k, v in (chosen or {}).items() if v is not None or k not in fields or NoneType in _kinds(fields[k])
    }
    settings: dict[str, Any] = reduce(merge, [*layers, given], {})
    settings |= {other: None for key, other in cls.Settings.displaces.items() if key in given and other not in given}
    try:
        resolved = cls.Settings.model_validate(settings)
    except ValidationError as e:
        raise ConfigError(explain(e, cls.Settings, f"method ({name})")) from e
    for layer in [
        *getattr(resolved, "layers", ()),
        *([resolved.layer] if hasattr(resolved, "layer") else []),
    ]:
        model.block_path(layer)
    return resolved


def origin_of_settings(name: str, model: EditableModel) -> str:
    """Say where a method's settings for a model come from, where the user chooses none."""
    places = (
        (_tuned(name, model), "what errata tune found for this model"),
        (model.settings, "editing.json of the model's directory"),
        (found(model), "settings that come with Errata, found by edits of this model (docs/real-models.md)"),
        (published(model), "settings published for this model"),
    )
    own = (
        f"the method's defaults, layers by depth and strength calibrated on this model; errata tune -m {name} may find "
        f"better"
    )
    return next((why for records, why in places if name in records), own)


def _tuned(name: str, model: EditableModel) -> dict[str, Any]:
    return {} if name in published(model) else tuned(model)


def _kinds(field: FieldInfo) -> tuple[Any, ...]:
    return get_args(field.annotation) or (field.annotation,)


def _entry(name: str, settings: type[EditorSettings], records: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a collection of settings has for a method; `like: memit` takes over what both methods can be told."""
    entry = dict(records.get(name, {}))
    if "like" not in entry:
        return entry
    base = entry.pop("like")
    if base not in records or "like" in records[base]:
        raise ConfigError(f"the settings of {name} are like {base!r}, for which there are none of its own beside them.")
    return merge({k: v for k, v in records[base].items() if k in settings.model_fields}, entry)


def _defaults(settings: type[EditorSettings]) -> dict[str, Any]:
    """Return a method's own defaults of its sections, which may differ from the section class's."""
    sections = {k: f.default for k, f in settings.model_fields.items() if isinstance(f.default, EditorSettings)}
    return {key: section.model_dump() for key, section in sections.items()}


def _by_depth(model: EditableModel, settings: type[EditorSettings]) -> dict[str, Any]:
    """Return layers at the relative depth of the published ones, for a model nobody has published settings for.

    ROME edits layer 17 of GPT2-XL's 48 and MEMIT 13 to 17: the layer at 0.36 of the depth, and the four before it.
    """
    top = round(settings.typical_depth * (model.n_layers - 1))
    several = tuple(range(max(0, top + 1 - settings.typical_layers), top + 1))
    return {
        key: value
        for key, value in {"layer": top, "layers": several}.items()
        if key in settings.model_fields and settings.model_fields[key].is_required()
    }
