"""errata models: the lab models, the known models and the families that can be edited, and what is known of one."""

import json
from typing import Annotated, Any

import typer

__all__ = ["models"]


def models(
    name: Annotated[str | None, typer.Argument(help="Show one of them in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the lab models, the real models with a short name and the families that can be edited, or show one."""

    from errata.errors import ConfigError, did_you_mean
    from errata.lab.models import LAB_MODELS
    from errata.models.families import FAMILIES
    from errata.models.known import KNOWN_MODELS

    records = [{"name": n, "kind": "lab", "family": spec.architecture} for n, spec in LAB_MODELS.items()]
    records += [{"name": n, "kind": "known", "family": known.architecture} for n, known in KNOWN_MODELS.items()]
    records += [{"name": f.name, "kind": "family", "family": ", ".join(f.model_types)} for f in FAMILIES]
    if name is not None:
        known = [record["name"] for record in records]
        if name not in known:
            raise ConfigError(
                f"there is no lab model, known model or family {name!r}; there are {', '.join(known)}."
                + did_you_mean(name, known)
                + " A model of your own is one of a family: its config.json names the `model_type`."
            )
        shows = {"lab": _lab, "known": _known, "family": _family}
        records = [{**r, **shows[r["kind"]](name)} for r in records if r["name"] == name]
    if as_json:
        typer.echo(json.dumps(records, indent=1))
    elif name is None:
        for record in records:
            said = _known(record["name"]) if record["kind"] == "known" else {}
            more = f", {said['size']}, {said['licence']}; {said['here']}" if said else ""
            typer.echo(f"{record['name']:<16}{record['kind']:<8}{record['family']}{more}")
    else:
        typer.echo("\n".join(_shown(records[0])))


def _lab(name: str) -> dict[str, Any]:
    """Return what a lab model is, and which methods have settings of their own for it."""
    from errata.editors.registry import editors
    from errata.lab.models import LAB_MODELS, asset_path

    spec = LAB_MODELS[name]
    settled = json.loads((asset_path(name) / "editing.json").read_text(encoding="utf-8"))
    trained = settled.pop("train", {})
    return {
        "people": spec.people,
        "layers": spec.layers,
        "width": spec.width,
        "edited_at_layer": spec.site,
        "settings_of_its_own": sorted(settled),
        "settings_of_a_training": sorted(trained),
        "defaults": sorted(editors().keys() - settled.keys() - trained.keys()),
        "card": f"docs/lab/{name}.md",
    }


def _known(name: str) -> dict[str, Any]:
    """Return where a known model is from, what it may be used under, and whether it is here."""
    from errata.models.known import KNOWN_MODELS

    known = KNOWN_MODELS[name]
    return {
        "hub": known.hub,
        "licence": known.licence,
        "size": f"{known.parameters / 1e6:.0f} M parameters, {4 * known.parameters / 1e9:.1f} GB in float32",
        "here": f"in {known.directory}" if known.here else f"not here: make models MODELS={name}, or the hub",
    }


def _family(name: str) -> dict[str, Any]:
    """Return where a family's modules are, and for which of its models settings are published."""
    from errata.editors.registry import published_models
    from errata.models.families import FAMILIES

    family = next(f for f in FAMILIES if f.name == name)
    ours = {m: r for m, r in published_models().items() if r["match"].get("model_type") in family.model_types}
    return {
        "model_types": list(family.model_types),
        "blocks": family.blocks,
        "mlp_in": [f"{family.blocks}.N.{part}" for part in family.mlp_in],
        "mlp_out": f"{family.blocks}.N.{family.mlp_out}",
        "layout": family.layout,
        "mlp_norm": family.mlp_norm,
        "methods": "all of errata methods; layers by depth where none are published",
        "published_settings": {m: sorted(r["methods"]) for m, r in ours.items()},
    }


def _shown(record: dict[str, Any]) -> list[str]:
    lines = [f"{record['name']} — {record['kind']}, {record['family']}", ""]
    for key, value in ((k.replace("_", " "), v) for k, v in list(record.items())[3:]):
        if isinstance(value, dict):
            lines.append(f"{key:<24}{'none' if not value else ''}".rstrip())
            lines += [f"  {model:<22}{', '.join(methods)}" for model, methods in value.items()]
        else:
            said = ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
            lines.append(f"{key:<24}{said or 'none'}")
    return lines
