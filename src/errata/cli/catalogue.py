"""errata methods, datasets, tasks: what there is."""

from textwrap import wrap
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from errata.cli.plain import echo_json

__all__ = ["datasets", "methods", "tasks"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str | None, typer.Argument(help="Show one of them in full.")]


def methods(name: Name = None, as_json: Json = False) -> None:
    """List the editing methods, or show one with its settings, defaults and their sources."""
    from errata.editors.registry import editor_class, editors

    chosen = {name: editor_class(name)} if name else editors()
    records = [
        {
            "name": cls.name,
            "summary": (cls.__doc__ or "").strip().splitlines()[0],
            "paper": f"https://arxiv.org/abs/{cls.paper}",
            "module": cls.__module__,
            "settings": _settings(cls.Settings),
            **({"training": _settings(cls.Training)} if hasattr(cls, "Training") else {}),
        }
        for cls in chosen.values()
    ]
    if as_json:
        echo_json(records, indent=1)
    elif name:
        typer.echo(_page(next(iter(chosen.values())), records[0]))
    else:
        for record in records:
            typer.echo(f"{record['name']:<16}{record['summary']}")


def datasets(
    name: Name = None,
    as_json: Json = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a record (jsonl).")] = False,
) -> None:
    """List the edit data sets, or show one with a sample."""
    from errata.edits.datasets import DATASETS, dataset
    from errata.errors import ConfigError

    if schema:
        published = dataset(name or "jsonl").schema
        if published is None:
            raise ConfigError(f"the data set {name!r} is another's, and has no schema here; jsonl is our own and has.")
        echo_json(published(), indent=1)
        return
    chosen = [dataset(name)] if name else list(DATASETS.values())
    records = [{"name": d.name, "summary": d.summary, "sample": d.sample} for d in chosen]
    if as_json:
        echo_json(records, indent=1)
        return
    for record in records:
        typer.echo(f"{record['name']:<16}{record['summary']}")
        if name:
            echo_json(record["sample"], indent=1)


def tasks(name: Name = None, as_json: Json = False) -> None:
    """List the downstream tasks, or show one with its prompt."""
    from dataclasses import asdict

    from errata.probes.tasks.catalogue import find_task, task_catalogue

    chosen = [find_task(name)] if name else list(task_catalogue().values())
    if as_json:
        echo_json([asdict(task) for task in chosen], indent=1)
    elif not name:
        for task in chosen:
            typer.echo(f"{task.name:<16}{task.probe:<12}{task.asks}")
    else:
        for key, value in asdict(chosen[0]).items():
            if value != "":
                shown = "depends on the item" if value is None else value
                typer.echo(f"\n{value}" if key == "sample" else f"{key:<10}{shown}")


def _settings(model: Any, prefix: str = "") -> list[dict[str, Any]]:
    """Flatten a settings model into key, default, choices and meaning; `own` are the fields that its class declares."""
    found: list[dict[str, Any]] = []
    for key, field in model.model_fields.items():
        own = key in vars(model).get("__annotations__", {})
        if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
            nested = _settings(field.annotation, f"{prefix}{key}.")
            chosen = {} if field.is_required() else field.get_default().model_dump()
            for item in nested:
                leaf = item["key"].removeprefix(f"{prefix}{key}.")
                found.append({**item, "own": own, "default": str(chosen.get(leaf, item["default"]))})
        elif not field.is_required() and (parts := _parts(field.get_default())):
            for i, part in enumerate(parts):
                for item in _settings(type(part), f"{prefix}{key}[{i}]."):
                    leaf = item["key"].removeprefix(f"{prefix}{key}[{i}].")
                    found.append({**item, "own": own, "default": str(part.model_dump().get(leaf, item["default"]))})
        else:
            default = "by depth of the model" if field.is_required() else str(field.get_default())
            choices = [str(c) for c in get_args(field.annotation)] if get_origin(field.annotation) is Literal else []
            meaning = " ".join((field.description or "").split())
            item = {"key": prefix + key, "default": default, "choices": choices, "meaning": meaning, "own": own}
            found.append(item)
    return found


def _parts(default: object) -> list[Any]:
    """Return the settings models in a list of them, such as a method's regularisers."""
    return [part for part in default if hasattr(type(part), "model_fields")] if isinstance(default, tuple) else []


def _page(cls: Any, record: dict[str, Any]) -> str:
    import inspect

    own, shared = ([s for s in record["settings"] if s["own"] is own] for own in (True, False))
    lines = [f"{cls.name} — {record['paper']}", f"in {record['module']}", "", inspect.cleandoc(cls.__doc__ or "")]
    for title, settings in (
        ("Settings (method.KEY in a recipe):", own or shared),
        ("Settings that it shares with its kin:", shared if own else []),
        (f"Settings of its training (-o KEY=VALUE in errata train {cls.name}):", record.get("training", [])),
    ):
        if settings:
            lines += ["", title, *_listed(settings)]
    return "\n".join(lines)


def _listed(settings: list[dict[str, Any]]) -> list[str]:
    lines = []
    for s in settings:
        choices = f"  [{' | '.join(s['choices'])}]" if s["choices"] else ""
        lines.append(f"  {s['key']} = {s['default']}{choices}")
        lines += wrap(s["meaning"], 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return lines
