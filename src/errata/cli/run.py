"""errata run, errata resume."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from errata.cli.plain import echo_json, remark

if TYPE_CHECKING:
    from errata.cli.terminal import TerminalProgress

__all__ = ["resume", "run"]

Until = Annotated[int | None, typer.Option(min=1, help="Pause once so many edits are made; `errata resume` goes on.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML.")],
    override: Annotated[list[str] | None, typer.Option("-o", metavar="KEY=VALUE", help="Override a setting.")] = None,
    model: Annotated[str | None, typer.Option(help="Short for -o model.name=MODEL.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run directory; runs/<run.name> by default.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved plan and its cost, run nothing.")
    ] = False,
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Edit a model one fact after another and record every consequence."""
    from errata.studies.recipe import load_recipe

    overrides = [*([f"model.name={json.dumps(model)}"] if model else []), *(override or [])]
    loaded = load_recipe(recipe, overrides, remark)
    target = out or Path("runs") / loaded.run.name
    if dry_run:
        from errata.studies.plan import plan

        found = plan(loaded, target, until=until)
        typer.echo(found.as_json() if as_json else str(found))
        return
    from errata.studies.run import run as go

    _finish(lambda progress: go(loaded, target, progress, until=until), target, as_json)


def resume(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.")],
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Continue an interrupted run exactly where it was; one of `errata edit` ends with its verdict."""
    from errata.studies.run import resume as go

    _finish(lambda progress: go(directory, progress, until=until), directory, as_json)


def _finish(work: Callable[["TerminalProgress"], Path], directory: Path, as_json: bool) -> None:
    """Do the work, then say where things are; an interruption says how to go on."""
    from errata.analysis.advice import few_taken
    from errata.analysis.correction import correction, of_corrections
    from errata.analysis.frames import load_run
    from errata.cli.edit import text, verdict
    from errata.cli.terminal import TerminalProgress

    progress = TerminalProgress(directory.name)
    try:
        work(progress)
    except KeyboardInterrupt:
        progress.end()
        begun = (directory / "run.json").exists()
        how = (
            f"every finished edit is recorded. Go on with: errata resume {directory}" if begun else "nothing was begun."
        )
        sys.stderr.write(f"interrupted; {how}\n")
        sys.exit(130)
    finally:
        progress.end()
    frames = load_run(directory)
    for warning in few_taken(frames):
        sys.stderr.write(f"warning: {warning}\n")
    edits, statuses = len(frames.journal), dict(Counter(frames.journal["status"]))
    found = correction(frames) if of_corrections(frames) else None
    if as_json:
        record = {"run": str(directory), "edits": edits, "statuses": statuses}
        echo_json(record | (verdict(found, directory) if found else {}))
    else:
        typer.echo(f"{edits} edits ({', '.join(f'{n} {s}' for s, n in statuses.items())}) in {directory}")
        typer.echo(text(found, directory) if found else f"next: errata report {directory}")
