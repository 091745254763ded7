"""errata doctor."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.plain import echo_json, remark

__all__ = ["doctor"]

_MARKS = {"ok": "ok", "absent": "–", "warning": "!", "failed": "FAILED"}


def doctor(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe whose run is to be tried out.")] = None,
    override: Annotated[list[str] | None, typer.Option("-o", metavar="KEY=VALUE", help="Override a setting.")] = None,
    model: Annotated[str | None, typer.Option(help="Short for -o model.name=MODEL.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the run would be written.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine and, with a recipe, all that its run needs: model, data, tasks, extras, disk and memory."""
    from errata.errors import ConfigError
    from errata.studies.doctor import doctor as examine
    from errata.studies.recipe import load_recipe

    if recipe is None and (override or model or out):
        raise ConfigError("-o, --model and --out change a recipe; name one: errata doctor RECIPE.")
    overrides = [*([f"model.name={json.dumps(model)}"] if model else []), *(override or [])]
    findings = []
    for finding in examine(load_recipe(recipe, overrides, remark) if recipe else None, out):
        findings.append(finding)
        if not as_json:  # each at once: some take a while
            typer.echo(f"{_MARKS[finding.state]:<8}{finding.check:<18}{finding.found}")
            if finding.advice:
                typer.echo(f"{'':<26}→ {finding.advice}")
    counted = Counter(finding.state for finding in findings)
    if as_json:
        echo_json([asdict(f) for f in findings], indent=1)
    else:
        typer.echo(f"\n{counted['failed']} failed, {counted['warning']} to look at, {counted['ok']} in order")
    if counted["failed"]:
        raise typer.Exit(1)
